"""Headers of safetensors files: read as strictly as the format's own reader reads them, and named where wrong."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.checkpoint.safetensors_file import tensor_places

Header = Mapping[str, object]


def write_file(file: Path, header: Header | str | bytes, *, size_bytes: int = 24) -> Path:
    """Write a file with this header and this number of bytes of tensors."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size_bytes))
    return file


def entry(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD: Header = {"__metadata__": {"format": "pt"}, "a": entry(), "b": entry("F16", [2, 2], [16, 24])}


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    file = write_file(tmp_path / "good.safetensors", GOOD)
    first = file.stat().st_size - 24
    places = tensor_places(file)
    assert {name: (place.start - first, place.stop - first) for name, place in places.items()} == {
        "a": (0, 16),
        "b": (16, 24),
    }
    assert (places["b"].name, places["b"].dtype_code, places["b"].shape) == ("b", "F16", (2, 2))


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry("F64", [], [0, 8]), "none": entry("F32", [0, 3], [8, 8]), "b": entry("U8", [16], [8, 24])},
        {"a": entry("F4", [6, 8], [0, 24])},
        {"a": entry("C64", [3], [0, 24])},
        {"a": entry("F8_E8M0", [24], [0, 24])},
        {"z": entry("I32", [2], [0, 8]), "a": entry("BOOL", [16], [8, 24])},
    ],
)
def test_what_the_format_allows_is_read(tmp_path: Path, header: Header) -> None:
    file = write_file(tmp_path / "odd.safetensors", header)
    assert tensor_places(file).keys() == header.keys()
    with safe_open(file, "np") as opened:
        assert set(opened.keys()) == header.keys()


BROKEN: dict[str, tuple[Header | str | bytes, tuple[str, ...]]] = {
    "no JSON": ("{", ("not JSON",)),
    "not UTF-8": (b'{"\xff": 1}', ("not JSON",)),
    "UTF-16": ("{}".encode("utf-16"), ("not JSON",)),
    "a list": ("[]", ("a JSON object",)),
    "too deep": ("[" * 100_000, ("not JSON",)),
    "metadata that is no text": ({**GOOD, "__metadata__": {"format": 1}}, ("__metadata__", "texts")),
    "metadata that is a list": ({**GOOD, "__metadata__": []}, ("__metadata__",)),
    "no object": ({**GOOD, "b": 3}, ("b has 3", "dtype, shape and data_offsets")),
    "no shape": ({**GOOD, "b": {"dtype": "F32", "data_offsets": [16, 24]}}, ("b has the keys data_offsets, dtype",)),
    "unknown dtype": ({**GOOD, "b": entry("F12", [2], [16, 24])}, ("b has the dtype 'F12'", "BF16")),
    "a number as dtype": ({**GOOD, "b": entry(32, [2], [16, 24])}, ("b has the dtype 32",)),
    "negative shape": ({**GOOD, "b": entry("F32", [-1, -2], [16, 24])}, ("b has the shape [-1, -2]",)),
    "fractional shape": ({**GOOD, "b": entry("F32", [2.0], [16, 24])}, ("b has the shape [2.0]",)),
    "boolean shape": ({**GOOD, "b": entry("F64", [True], [16, 24])}, ("b has the shape [True]",)),
    "infinite shape": (
        '{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}',
        ("Infinity is not a number",),
    ),
    "start after stop": ({**GOOD, "b": entry("F32", [2], [24, 16])}, ("b has the data_offsets [24, 16]",)),
    "negative offset": ({**GOOD, "b": entry("F32", [2], [-8, 0])}, ("b has the data_offsets [-8, 0]",)),
    "three offsets": ({**GOOD, "b": entry("F32", [2], [16, 20, 24])}, ("b has the data_offsets [16, 20, 24]",)),
    "too few bytes": (
        {**GOOD, "b": entry("F32", [3], [16, 24])},
        ("b has", "8 bytes", "12 bytes for F32 of shape [3]"),
    ),
    "half a byte": ({"a": entry("F4", [47], [0, 24])}, ("a has", "24 bytes", "23.5 bytes for F4")),
    "overlap": ({**GOOD, "b": entry("F32", [4], [8, 24])}, ("b starts at byte", "overlaps with a, which ends at byte")),
    "the same twice": ({**GOOD, "c": entry()}, ("c starts at byte", "overlaps with a")),
    "a hole": ({"a": entry(), "b": entry("U8", [4], [20, 24])}, ("b starts at byte", "leaves a hole after a")),
    "a hole at the start": ({"b": entry("U8", [8], [16, 24])}, ("b starts", "leaves a hole after the header")),
    "outside the file": ({**GOOD, "c": entry("U8", [9], [24, 33])}, ("its header needs", "cut off; fetch it again")),
    "bytes of no tensor": ({"a": entry()}, ("describes only",)),
    "no tensors, but bytes": ({}, ("describes only",)),
}


@pytest.mark.parametrize(("header", "parts"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_refused_as_the_formats_own_reader_refuses_it(
    tmp_path: Path, header: Header | str | bytes, parts: tuple[str, ...]
) -> None:
    file = write_file(tmp_path / "broken.safetensors", header)
    with pytest.raises(BrokenCheckpoint) as refused:
        tensor_places(file)
    for part in (str(file), *parts):
        assert part in str(refused.value)
    with pytest.raises(SafetensorError), safe_open(file, "np"):
        pass


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    header = json.dumps(GOOD)[:-1] + ', "a": ' + json.dumps(entry()) + "}"
    with pytest.raises(BrokenCheckpoint, match="lists a twice"):
        tensor_places(write_file(tmp_path / "twice.safetensors", header))


@pytest.mark.parametrize("content", [b"", b"\x01", bytes(8), b"\xff" * 8 + b"{}", (9).to_bytes(8, "little") + b"{}"])
def test_what_is_too_short_for_its_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "short.safetensors").write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match="not a safetensors file, or cut off in its header"):
        tensor_places(tmp_path / "short.safetensors")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokenCheckpoint, match=r"none\.safetensors: cannot be read \(No such file"):
        tensor_places(tmp_path / "none.safetensors")


def test_a_file_cut_off_after_it_was_opened_is_named_with_the_tensor(tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.safetensors", GOOD)
    places = tensor_places(file)
    file.write_bytes(file.read_bytes()[:-4])
    assert places["a"].read_bytes() == bytes(16)
    with pytest.raises(BrokenCheckpoint, match=r"model\.safetensors: ends at byte \d+, while b is read"):
        places["b"].read_bytes()
    file.unlink()
    with pytest.raises(BrokenCheckpoint, match=r"model\.safetensors: a cannot be read"):
        places["a"].read_bytes()
