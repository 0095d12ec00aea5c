"""Reads safetensors files as bytes: where each tensor is, and its bytes in chunks.

Format: 8 bytes (little-endian length of the header), the header (JSON: name -> dtype, shape, data_offsets), the data.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evovlm.errors import BrokenCheckpoint
from evovlm.foreign_json import parse_json

if TYPE_CHECKING:
    import torch

ITEM_BITS: Mapping[str, int] = {
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "BF16": 16,
    "F16": 16,
    "I16": 16,
    "U16": 16,
    "BOOL": 8,
    "I8": 8,
    "U8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits per entry, by safetensors' dtype code; all codes of the format."""

_TORCH_NAMES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")
"""The codes of the dtypes that merge."""
DTYPE_CODES: Mapping[str, str] = {_TORCH_NAMES[code]: code for code in PLAIN_FLOATS}
"""The codes of the dtypes that merge, by the names that a config.json and a recipe give them."""
LENGTH_BYTES = 8
"""Bytes of the header's length, which comes first; the header is padded to a multiple of them."""
METADATA = "__metadata__"
"""The only key of the header that does not name a tensor."""
CHUNK_BYTES = 4 << 20
"""Bytes copied or compared at a time: fastest of 0.25, 1, 4 and 16 MiB (5 GB/s copied, 7 GB/s compared, in cache)."""
_LARGEST_HEADER = 100_000_000
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """A tensor's file, name there, dtype (safetensors' code), shape, and the half-open byte range it takes there."""

    file: Path
    name: str
    dtype_code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many bytes the tensor takes."""
        return self.stop - self.start

    def read_into(self, target: memoryview | bytearray, *, start: int = 0) -> None:
        """Fill `target` (writable bytes) with the tensor's bytes from its byte `start` on; any thread may.

        Raises BrokenCheckpoint when the file cannot be read, or ends before it should.
        """
        view, held = memoryview(target).cast("B"), _held.descriptors
        try:
            descriptor = held.get(self.file) if held is not None else None
            if descriptor is None:
                descriptor = os.open(self.file, _READING)
                if held is not None:
                    held[self.file] = descriptor
            try:
                filled = _fill(view, descriptor, self.start + start)
            finally:
                if held is None:
                    os.close(descriptor)
        except OSError as error:
            raise BrokenCheckpoint(
                f"{self.file}: {self.name} cannot be read ({error.strerror or error}); check the disk."
            ) from error
        if filled < len(view):
            raise BrokenCheckpoint(
                f"{self.file}: ends at byte {self.start + start + filled}, while {self.name} is read, "
                f"which ends at byte {self.stop}.\n    The file was cut off meanwhile; fetch it again."
            )

    def read_bytes(self) -> bytearray:
        """Return the tensor's bytes as they are in the file; raises BrokenCheckpoint when that fails."""
        content = bytearray(self.size_bytes)
        self.read_into(content)
        return content

    def read(self) -> torch.Tensor:
        """Return the tensor as stored (dtype and shape); raises BrokenCheckpoint for a dtype that torch lacks."""
        import torch

        dtype = torch_dtype(self.dtype_code)
        if dtype is None:
            raise BrokenCheckpoint(f"{self.file}: {self.name} has dtype {self.dtype_code}, which torch does not have.")
        if self.size_bytes == 0:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(self.read_bytes(), dtype=dtype).reshape(self.shape)


class _Held(threading.local):
    """The files that this thread keeps open, None outside of `files_held_open`."""

    descriptors: dict[Path, int] | None = None


_held = _Held()


@contextmanager
def files_held_open() -> Iterator[None]:
    """Keep each file that this thread reads open until the end of the block: small tensors take longest to open."""
    _held.descriptors = {}
    try:
        yield
    finally:
        descriptors, _held.descriptors = _held.descriptors, None
        for descriptor in descriptors.values():
            os.close(descriptor)


def _fill(view: memoryview, descriptor: int, offset: int) -> int:
    """Read until the view is full or the file ends; return the number of bytes."""
    filled = 0
    while filled < len(view):
        count = os.preadv(descriptor, [view[filled:]], offset + filled)
        if not count:
            break
        filled += count
    return filled


def torch_dtype(dtype_code: str) -> torch.dtype | None:
    """Return torch's dtype for safetensors' code, None for a code that is not read here."""
    import torch

    found = getattr(torch, _TORCH_NAMES.get(dtype_code, ""), None)
    return found if isinstance(found, torch.dtype) else None


def differing_chunk(left: TensorPlace, right: TensorPlace, *, start: int, stop: int) -> range | None:
    """Return the first chunk of bytes `start` .. `stop - 1` in which two tensors differ, None where they agree.

    Takes the memory of two chunks. Raises BrokenCheckpoint when one cannot be read.
    """
    ours, theirs = bytearray(), bytearray()
    for first in range(start, stop, CHUNK_BYTES):
        chunk = range(first, min(first + CHUNK_BYTES, stop))
        if len(chunk) != len(ours):
            # Only whole bytearrays compare at the speed of memory; views compare byte by byte.
            ours, theirs = bytearray(len(chunk)), bytearray(len(chunk))
        left.read_into(ours, start=first)
        right.read_into(theirs, start=first)
        if ours != theirs:
            return chunk
    return None


def hold_the_same(left: TensorPlace, right: TensorPlace) -> bool:
    """Whether two tensors agree in dtype, shape and every byte; reads a chunk of each at a time."""
    if (left.dtype_code, left.shape) != (right.dtype_code, right.shape):
        return False
    return differing_chunk(left, right, start=0, stop=left.size_bytes) is None


def tensor_places(file: Path) -> Mapping[str, TensorPlace]:
    """Return where each tensor of a safetensors file is, after checking the header as strictly as the format asks.

    The tensors must fill the rest of the file without overlaps or holes. Raises BrokenCheckpoint when the file is not a
    safetensors file, or is cut off.
    """
    try:
        size_bytes = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
            if not 0 < length <= min(_LARGEST_HEADER, size_bytes - LENGTH_BYTES):
                raise BrokenCheckpoint(f"{file}: not a safetensors file, or cut off in its header.")
            text = stream.read(length)
    except OSError as error:
        raise BrokenCheckpoint(f"{file}: cannot be read ({error.strerror or error}).") from error
    header = _parsed(file, text)
    first = LENGTH_BYTES + length
    places = [_place(file, name, entry, first) for name, entry in header.items() if name != METADATA]
    _check_layout(file, places, first=first, size_bytes=size_bytes)
    return {place.name: place for place in places}


def _parsed(file: Path, text: bytes) -> Mapping[str, Any]:
    try:
        header = parse_json(text, unique_keys=True)
    except ValueError as error:
        raise BrokenCheckpoint(
            f"{file}: not a safetensors file: its header is not JSON ({error}). Fetch it again."
        ) from error
    if not isinstance(header, dict):
        raise BrokenCheckpoint(f"{file}: not a safetensors file: its header should be a JSON object.")
    metadata = header.get(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BrokenCheckpoint(f"{file}: {METADATA} in its header should map names to texts.")
    return header


def _place(file: Path, name: str, entry: object, first: int) -> TensorPlace:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        found = f"the keys {', '.join(sorted(entry)) or 'none'}" if isinstance(entry, dict) else repr(entry)
        raise _wrong_entry(file, name, found, "dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in ITEM_BITS:
        raise _wrong_entry(file, name, f"the dtype {code!r}", f"one of {', '.join(ITEM_BITS)}")
    if not _are_counts(shape):
        raise _wrong_entry(file, name, f"the shape {shape!r}", "a list of whole numbers, none below 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _wrong_entry(file, name, f"the data_offsets {offsets!r}", "[start, stop], 0 <= start <= stop")
    size_bits = math.prod(shape) * ITEM_BITS[code]
    if (offsets[1] - offsets[0]) * 8 != size_bits:
        raise _wrong_entry(
            file,
            name,
            f"the data_offsets {offsets}, {offsets[1] - offsets[0]} bytes",
            f"{size_bits / 8:.10g} bytes for {code} of shape {shape}",
        )
    return TensorPlace(
        file=file,
        name=name,
        dtype_code=code,
        shape=tuple(shape),
        start=first + offsets[0],
        stop=first + offsets[1],
    )


def _wrong_entry(file: Path, name: str, found: object, needed: str) -> BrokenCheckpoint:
    return BrokenCheckpoint(f"{file}: the header's entry for {name} has {found}; it needs {needed}.")


def _are_counts(numbers: object) -> bool:
    # `True` is an int to Python, not to the format.
    return isinstance(numbers, list) and all([type(number) is int and number >= 0 for number in numbers])  # noqa: C419


def _check_layout(file: Path, places: Iterable[TensorPlace], *, first: int, size_bytes: int) -> None:
    end, before = first, "the header"
    for place in sorted(places, key=lambda place: (place.start, place.stop)):
        if place.start != end:
            kind = "overlaps with" if place.start < end else "leaves a hole after"
            raise BrokenCheckpoint(
                f"{file}: {place.name} starts at byte {place.start} and {kind} {before}, which ends at byte {end}."
            )
        end, before = place.stop, place.name
    if end > size_bytes:
        raise BrokenCheckpoint(
            f"{file}: {size_bytes} bytes, but its header needs {end}.\n    The file is cut off; fetch it again."
        )
    if end < size_bytes:
        raise BrokenCheckpoint(
            f"{file}: {size_bytes} bytes, but its header describes only {end}.\n    Fetch the file again."
        )
