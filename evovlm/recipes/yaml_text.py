"""YAML read the strict way: safe, YAML 1.2 scalars, no key twice, and every key's line known."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from evovlm.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]

_MOST_NODES = 1_000_000
"""Far more than any recipe has; a few lines of aliases of aliases can expand to billions."""


class _StrictLoader(yaml.SafeLoader):
    """A safe loader with YAML 1.2's scalars: `no` and `on` are text, `1e-3` is a number, `010` is text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class declares it without ClassVar)


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
for _tag, (_pattern, _first) in _SCALARS.items():
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )


def read_yaml(path: Path) -> object:
    """Return what the YAML file says, as plain Python values.

    Raises ConfigError when the file cannot be read, is not YAML, holds more than one document, refers to itself, or
    gives a key twice; the message has the line.
    """
    root = _compose(path)
    if root is None:
        return None
    _check_keys(path, root)
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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error}).") from error
    try:
        root = yaml.compose(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, error) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({error}).") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply to be read. Write it flat.") from error
    if root is not None and _size(root, {}) > _MOST_NODES:
        raise ConfigError(
            f"{path}: expands to more than {_MOST_NODES:,} values, because its aliases (*name) repeat parts that "
            "repeat others. Write the values out."
        )
    return root


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
    return ConfigError(f"{path}:{line}: not YAML ({error.problem or error}).")


def _check_keys(path: Path, root: yaml.Node) -> None:
    problems: list[str] = []
    _find_repeated_keys(root, (), problems, path)
    if problems:
        raise ConfigError("\n    ".join([f"{path} gives a key twice:", *problems]))


def _find_repeated_keys(node: yaml.Node, above: tuple[int, ...], problems: list[str], path: Path) -> None:
    if id(node) in above:
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: this part of the file contains itself.")
    inside = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _find_repeated_keys(child, inside, problems, path)
    elif isinstance(node, yaml.MappingNode):
        first_lines: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in first_lines:
                problems.append(f"{path}:{line}: '{name}' was already given in line {first_lines[name]}.")
            first_lines.setdefault(name, line)
            _find_repeated_keys(child, inside, problems, path)


def _collect_lines(node: yaml.Node, place: KeyPath, lines: dict[KeyPath, int]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            lines[(*place, index)] = child.start_mark.line + 1
            _collect_lines(child, (*place, index), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            lines[(*place, str(key.value))] = key.start_mark.line + 1
            _collect_lines(child, (*place, str(key.value)), lines)
