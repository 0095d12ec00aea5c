"""YAML files from anyone: what JSON does not have is refused with its line, and nothing is read without a bound."""

import os
from pathlib import Path

import pytest

from evovlm.errors import ConfigError
from evovlm.recipes.yaml_text import LIMIT_BYTES, key_lines, read_yaml


def _written(folder: Path, text: str) -> Path:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: !!bool maybe", ":1: 'maybe' is not a value of the tag !!bool; leave the tag out"),
        ("format: !!int abc", ":1: 'abc' is not a value of the tag !!int"),
        ("format: !!float x", ":1: 'x' is not a value of the tag !!float"),
        ("format: !!null x", ":1: 'x' is not a value of the tag !!null"),
        ("a: 1\nformat: !!timestamp foo", ":2: the tag !!timestamp is not supported; leave it out"),
        ("format: !!timestamp 2001-01-01", "the tag !!timestamp"),
        ("format: !!binary '###'", "the tag !!binary"),
        ("format: !!set {a: null}", "the tag !!set"),
        ("format: !!omap [a: 1]", "the tag !!omap"),
        ("format: !!seq {a: 1}", "the tag !!seq"),
        ("format: !!python/object/apply:os.system [ls]", "the tag !!python/object/apply:os.system"),
        ("format: !own x", "the tag !own"),
        ("!!int abc: 1", "'abc' is not a value of the tag !!int"),
        (f"format: {'9' * 5000}", ":1: the number 99999999999999999999... has more than 20 digits"),
        (f"format: {'9' * 400}.5", "is too large"),
        ("format: 1e400", ":1: the number 1e400 is too large"),
        ("a: &a [1]\nb: {<<: *a}", ":1: not YAML (the merge key << takes a mapping or a list of mappings"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", ":1: not YAML (the merge key << is given twice in one mapping)"),
        ("a: &a {b: {<<: *a}}", "contains itself"),
        ("? [a, b]\n: 1", ":1: a list or a mapping cannot be a key"),
        ("? {a: 1}\n: 1", ":1: a list or a mapping cannot be a key"),
        ('a: "\\ud800"', "surrogate"),
        ('a: "\\UFFFFFFFF"', "not YAML"),
        ("a: \0", ":1: not YAML (contains the character U+0000)"),
        ("a: 1\nb: \a", ":2: not YAML (contains the character U+0007)"),
        ("a: 1\n5: x", ":2: the key 5 is not a text; put it in quotes"),
        ("weights: {a: 0,5: 1}", ":1: the key 5 is not a text"),
        ("true: 1", "the key true is not a text"),
        ("~: 1", "the key ~ is not a text"),
        ("1.5: 1", "the key 1.5 is not a text"),
        ("[" * 40 + "]" * 40, "nested more than 30 levels deep"),
        ("a:\n  " + "- " * 3000, "nested too deeply"),
        ("one: 1\n---\ntwo: 2\n", ":2: a second document begins here (---)"),
        ("a: &x [*x]", "contains itself"),
        ("a: *nothing", "not YAML"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_json_does_not_have_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = _written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_aliases_of_keys_do_not_expand(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 17)), "? *a16\n: 1"]
    with pytest.raises(ConfigError, match="cannot be a key"):
        read_yaml(_written(tmp_path, "\n".join(lines)))


def test_tags_that_say_what_the_value_is_anyway_are_read(tmp_path: Path) -> None:
    path = _written(tmp_path, "a: !!int 3\nb: !!str 4\nc: !!float 1e-3\nd: !!map {e: !!seq [!!bool true, !!null ~]}")
    assert read_yaml(path) == {"a": 3, "b": "4", "c": 1e-3, "d": {"e": [True, None]}}
    assert read_yaml(_written(tmp_path, "a: -18446744073709551615\n'<<': b")) == {"a": -18446744073709551615, "<<": "b"}


def test_merge_keys_add_what_a_mapping_does_not_have_itself(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: [2]}\nb: &b {<<: *a, x: 3}\nc:\n  <<: [*b, {z: 4, x: 5}]\n  y: 6\nd: <<\n"
    path = _written(tmp_path, text)
    assert read_yaml(path) == {
        "a": {"x": 1, "y": [2]},
        "b": {"x": 3, "y": [2]},
        "c": {"x": 3, "y": 6, "z": 4},
        "d": "<<",
    }
    assert key_lines(path)["b", "y", 0] == 1
    assert key_lines(path)["c", "z"] == 4


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        for read in (read_yaml, key_lines):
            with pytest.raises(ConfigError, match=r"folder, a pipe or a device|is a folder"):
                read(path)
    huge = _written(tmp_path, "a: 1\n")
    os.truncate(huge, LIMIT_BYTES + 1)
    with pytest.raises(ConfigError, match="more than the 1000000 allowed"):
        read_yaml(huge)


@pytest.mark.parametrize("content", ["a: 質問\n".encode("cp932"), "a: 質問\n".encode("utf-16"), b"a: caf\xe9\n"])
def test_a_file_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"file\.yaml: is not a text file in UTF-8 \(byte 0x.. at .*Save it as UTF-8"):
        read_yaml(path)
