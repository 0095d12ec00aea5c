"""YAML read the strict way: safe, YAML 1.2 scalars, no key twice, and every key's line known.

A file may come from anyone: it is bounded in size, in depth and in the length of its numbers, and has only the types
of JSON.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from evovlm.errors import ConfigError
from evovlm.files import read_foreign

KeyPath: TypeAlias = tuple[str | int, ...]

LIMIT_BYTES = 1_000_000
"""Several times the longest recipe (every component of every block by itself); reading a megabyte takes seconds."""
_MOST_NODES = 1_000_000
"""Far more than any recipe has; a few lines of aliases of aliases can expand to billions."""
_DEEPEST = 30
_SHOWN_FILES = 5
_MOST_DIGITS = 20
"""Of a whole number: those of 64 bits."""


class _StrictLoader(yaml.SafeLoader):
    """A safe loader with YAML 1.2's scalars: `no` and `on` are text, `1e-3` is a number, `010` is text.

    Of YAML 1.1 it keeps merge keys (`<<: *name`), which people use to share settings.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class declares it without ClassVar)


_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.Inf|\.INF)"
        r"|\.nan|\.NaN|\.NAN",
        "-+0123456789.",
    ),
    "null": (r"~|null|Null|NULL|", "~nN\0"),
}
_MERGE = f"{_TAG}merge"
for _tag, (_pattern, _first) in _SCALARS.items():
    _StrictLoader.add_implicit_resolver(
        f"{_TAG}{_tag}", re.compile(f"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )
_StrictLoader.add_implicit_resolver(_MERGE, re.compile("<<$"), ["<"])


def read_yaml(path: Path) -> object:
    """Return what the YAML file says, as plain Python values.

    Raises ConfigError when the file cannot be read, is not YAML, holds more than one document, refers to itself, gives
    a key twice, or has other types than JSON; the message has the line.
    """
    root = _compose(path)
    if root is None:
        return None
    _check_values(path, root)
    loader = _StrictLoader("")
    try:
        return loader.construct_document(root)
    except yaml.constructor.ConstructorError as error:
        raise _syntax_error(path, error) from error
    finally:
        loader.dispose()


def scalar_text(text: str) -> str:
    """Return YAML that reads back as the string `text`: unquoted where that is safe, else in double quotes."""
    if re.fullmatch(r"[\w./@:~-]*[\w/]", text) and text[0] not in "-:@~" and ": " not in text:
        node = yaml.compose(text, Loader=_StrictLoader)
        if node is not None and node.tag == "tag:yaml.org,2002:str":
            return text
    return re.sub(r"[^\n]", _escaped, json.dumps(text, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    # YAML takes only printable characters as they are, and some line ends for others.
    char = match[0]
    if char.isprintable():
        return char
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"


def key_lines(path: Path) -> Mapping[KeyPath, int]:
    """Return the line (from 1) of each key path of the YAML file; the path () is its first line."""
    root = _compose(path)
    lines: dict[KeyPath, int] = {(): 1}
    if root is not None:
        _collect_lines(root, (), lines)
    return lines


def _compose(path: Path) -> yaml.Node | None:
    try:
        text = read_foreign(path, limit_bytes=LIMIT_BYTES).decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: this file does not exist. Check its name and folder.") from error
    except IsADirectoryError as error:
        inside = ", ".join(sorted(file.name for file in path.glob("*.yaml") if file.is_file())[:_SHOWN_FILES])
        named = f"a YAML file: it holds {inside}" if inside else "a YAML file, and it holds none"
        raise ConfigError(f"{path}: is a folder. Name {named}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not a text file in UTF-8 (byte 0x{error.object[error.start]:02x} at position {error.start}). "
            "Save it as UTF-8."
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error}).") from error
    try:
        root = yaml.compose(text, Loader=_StrictLoader)
        if root is not None:
            _merge_keys(root, set())
        nodes = 0 if root is None else _size(root, {})
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: not YAML (contains the character U+{error.character:04X}). Remove it."
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets through what chr() raises for an escape beyond Unicode.
        raise ConfigError(f"{path}: not YAML ({error}).") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply to be read. Write it flat.") from error
    if nodes > _MOST_NODES:
        raise ConfigError(
            f"{path}: expands to more than {_MOST_NODES:,} values, because its aliases (*name) repeat parts that "
            "repeat others. Write the values out."
        )
    return root


def _merge_keys(node: yaml.Node, seen: set[int]) -> None:
    """Replace each merge key inside a node by the keys that it stands for, after those that the mapping has itself.

    Raises ConstructorError for a merge key of anything but mappings, or two in one mapping.
    """
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    for part in node.value:
        *_, value = part if isinstance(part, tuple) else (part,)
        if value.tag == _MERGE:
            # As a value, it is a text like any other.
            value.tag = f"{_TAG}str"
        for child in part if isinstance(part, tuple) else (part,):
            _merge_keys(child, seen)
    if isinstance(node, yaml.MappingNode):
        merged = [value for key, value in node.value if key.tag == _MERGE]
        own = [pair for pair in node.value if pair[0].tag != _MERGE]
        if len(merged) > 1:
            raise _wrong_merge("is given twice in one mapping", merged[1])
        node.value = own + (_merged_pairs(merged[0], {key.value for key, _ in own if _is_name(key)}) if merged else [])


def _merged_pairs(value: yaml.Node, known: set[str]) -> list[tuple[yaml.Node, yaml.Node]]:
    found: list[tuple[yaml.Node, yaml.Node]] = []
    for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
        if not isinstance(each, yaml.MappingNode):
            raise _wrong_merge("takes a mapping or a list of mappings, as in <<: *name", each)
        found += [pair for pair in each.value if not _is_name(pair[0]) or pair[0].value not in known]
        known |= {key.value for key, _ in each.value if _is_name(key)}
    return found


def _is_name(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode)


def _wrong_merge(what: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, f"the merge key << {what}", node.start_mark)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many nodes there are, each counted as often as aliases repeat it; one inside itself counts once."""
    if id(node) not in known:
        known[id(node)] = 1
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = (child for part in parts for child in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _syntax_error(path: Path, error: yaml.MarkedYAMLError) -> ConfigError:
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    if error.context == "expected a single document in the stream":
        return ConfigError(
            f"{path}:{line}: a second document begins here (---), and one file holds one recipe or search.\n"
            "    Write each document into its own file. (Of mergekit-multi's merges, merge the first ones into "
            "folders, and name these where a later one says their `name`.)"
        )
    return ConfigError(f"{path}:{line}: not YAML ({error.problem or error}).")


def _check_values(path: Path, root: yaml.Node) -> None:
    """Raise ConfigError for what JSON does not have, for depth, and for keys that are given twice."""
    problems: list[str] = []
    _find_repeated_keys(root, (), problems, path)
    if problems:
        raise ConfigError("\n    ".join([f"{path} gives a key twice:", *problems]))


def _find_repeated_keys(node: yaml.Node, above: tuple[int, ...], problems: list[str], path: Path) -> None:
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ConfigError(f"{path}:{line}: this part of the file contains itself.")
    if len(above) > _DEEPEST:
        raise ConfigError(f"{path}:{line}: is nested more than {_DEEPEST} levels deep. Write it flat.")
    found = _wrong_value(node)
    if found is not None:
        raise ConfigError(f"{path}:{line}: {found}.")
    inside = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _find_repeated_keys(child, inside, problems, path)
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            wrong = _wrong_key(key)
            if wrong is not None:
                raise ConfigError(f"{path}:{line}: {wrong}.")
            name = str(key.value)
            if name in first_lines:
                problems.append(f"{path}:{line}: '{name}' was already given in line {first_lines[name]}.")
            first_lines.setdefault(name, line)
            _find_repeated_keys(child, inside, problems, path)


def _wrong_key(key: yaml.Node) -> str | None:
    if not isinstance(key, yaml.ScalarNode):
        return "a list or a mapping cannot be a key; write a name"
    wrong = _wrong_value(key)
    if wrong is None and key.tag.removeprefix(_TAG) in _SCALARS:
        return f"the key {key.value[:20] or 'null'} is not a text; put it in quotes if it is a name"
    return wrong


def _wrong_value(node: yaml.Node) -> str | None:
    """Return what is wrong with a node, apart from what is inside it; None if nothing is."""
    kind = node.tag.removeprefix(_TAG)
    if isinstance(node, yaml.CollectionNode):
        usual = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        return None if kind == usual else f"the tag {_shown_tag(node)} is not supported; leave it out"
    text: str = node.value
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "a text has half a surrogate pair, which is not a character"
    if kind == "str":
        return None
    if kind not in _SCALARS:
        return f"the tag {_shown_tag(node)} is not supported; leave it out"
    if re.fullmatch(_SCALARS[kind][0], text) is None:
        return f"'{text[:20]}' is not a value of the tag {_shown_tag(node)}; leave the tag out"
    if kind == "int" and len(text.lstrip("+-")) > _MOST_DIGITS:
        return f"the number {text[:20]}... has more than {_MOST_DIGITS} digits"
    if kind == "float" and "n" not in text.lower() and math.isinf(float(text)):
        return f"the number {text[:20]} is too large"
    return None


def _shown_tag(node: yaml.Node) -> str:
    return node.tag.replace(_TAG, "!!", 1)[:40]


def _collect_lines(node: yaml.Node, place: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            lines[(*place, index)] = child.start_mark.line + 1
            _collect_lines(child, (*place, index), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            lines[(*place, str(key.value))] = key.start_mark.line + 1
            _collect_lines(child, (*place, str(key.value)), lines)
