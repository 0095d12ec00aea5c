"""JSON from anyone: bounded in size and depth, and its numbers and texts are ones that every part of evovlm can use."""

import os
from pathlib import Path

import pytest

from evovlm.foreign_json import JsonObject, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 100 levels deep"),
        ("[" * 101 + "]" * 101, "nested more than 100 levels deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested more than 100 levels deep"),
        ("10e400", "the number 10e400 is too large"),
        ("-" + "9" * 5000, "too large"),
        ("[NaN]", "NaN is not a number that JSON has"),
        ("-Infinity", "Infinity is not a number that JSON has"),
        (r'["\ud800"]', "surrogates"),
        (r'{"\udc00x": 1}', "surrogates"),
        (b"\xff", "utf-8"),
        ("{", "Expecting"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_cannot_be_used_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_other_json_is_read_as_it_is() -> None:
    assert parse_json(r'{"a": [1, 2.5, -1e-3, "\ud83d\ude00", null, true]}') == {"a": [1, 2.5, -1e-3, "😀", None, True]}
    assert parse_json("[" * 100 + "]" * 100)


def test_values_of_another_type_are_named_with_what_they_should_be() -> None:
    row = JsonObject.of(parse_json('{"a": {"n": 5, "x": [0.5, 2], "t": ["b", 1], "big": 1e305, "b": true}}'))
    inner = row.inside("a")
    assert inner.count("n") == 5
    assert inner.numbers("x") == (0.5, 2)
    for read, message in (
        (lambda: row.text("b"), "^b: missing$"),
        (lambda: row.number("a"), r'^a is \{"n": 5.*; it should be a number$'),
        (lambda: inner.count("n", high=4), "^a.n is 5; it should be a whole number from 0 to 4$"),
        (lambda: inner.numbers("x", low=0, high=1), r"^a.x is \[0.5, 2\]; .* a list of numbers in \[0, 1\]$"),
        (lambda: inner.counts("x"), "should be a list of whole numbers"),
        (lambda: inner.texts("t"), "should be a list of texts"),
        (lambda: inner.number("big"), "should be a number"),
        (lambda: inner.number("b"), "a.b is true; it should be a number"),
        (lambda: inner.count("b"), "a.b is true; it should be a whole number"),
        (lambda: JsonObject.of([1]), r"it is \[1\]; it should be a JSON object"),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"folder, a pipe or a device|Is a directory"):
            read_json(path)
    (tmp_path / "file").write_text("[1]")
    assert read_json(tmp_path / "file", limit_bytes=3) == [1]
    with pytest.raises(OSError, match="more than the 2 allowed"):
        read_json(tmp_path / "file", limit_bytes=2)
