"""safetensors files as bytes: where each tensor lies, and files written tensor by tensor in bounded memory.

Format: 8 bytes (little-endian length of the header), the header (JSON: name -> dtype, shape, data_offsets), the data.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evovlm.errors import BrokenCheckpoint

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000
_PIECE_BYTES = 1 << 22
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """A tensor's file, dtype (safetensors' code), shape, and the half-open byte range it takes in that file."""

    file: Path
    dtype_code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many bytes the tensor takes."""
        return self.stop - self.start

    def read_bytes(self) -> bytes:
        """Return the tensor's bytes as they are in the file."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size_bytes)

    def read(self) -> torch.Tensor:
        """Return the tensor as stored (dtype and shape); raises BrokenCheckpoint for a dtype it does not know."""
        if self.dtype_code not in DTYPES:
            raise BrokenCheckpoint(f"{self.file}: a tensor has dtype {self.dtype_code}, which torch does not have.")
        dtype = DTYPES[self.dtype_code]
        if self.size_bytes == 0:
            return torch.empty(self.shape, dtype=dtype)
        # A bytearray, not bytes: torch takes over the memory and wants it writable.
        content = bytearray(self.size_bytes)
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            stream.readinto(content)
        return torch.frombuffer(content, dtype=dtype).reshape(self.shape)


def hold_the_same(left: TensorPlace, right: TensorPlace) -> bool:
    """Whether two tensors agree in dtype, shape and every byte; reads a piece of each at a time."""
    if (left.dtype_code, left.shape) != (right.dtype_code, right.shape):
        return False
    with left.file.open("rb") as one, right.file.open("rb") as other:
        one.seek(left.start)
        other.seek(right.start)
        for done in range(0, left.size_bytes, _PIECE_BYTES):
            piece = min(_PIECE_BYTES, left.size_bytes - done)
            if one.read(piece) != other.read(piece):
                return False
    return True


def tensor_places(file: Path) -> Mapping[str, TensorPlace]:
    """Return where each tensor of a safetensors file lies; raises BrokenCheckpoint when the file is not one, or cut."""
    try:
        size_bytes = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
            if not 0 < length <= min(_LARGEST_HEADER, size_bytes - _LENGTH_BYTES):
                raise BrokenCheckpoint(f"{file}: not a safetensors file, or cut off in its header.")
            header = json.loads(stream.read(length))
        first = _LENGTH_BYTES + length
        places = {name: _place(file, entry, first) for name, entry in header.items() if name != _METADATA}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenCheckpoint(f"{file}: cannot be read as a safetensors file ({error}).") from error
    end = max((place.stop for place in places.values()), default=0)
    if end > size_bytes:
        raise BrokenCheckpoint(
            f"{file}: {size_bytes} bytes, but its header needs {end}.\n    The file is cut off; fetch it again."
        )
    return places


def _place(file: Path, entry: Mapping[str, Any], first: int) -> TensorPlace:
    start, stop = entry["data_offsets"]
    return TensorPlace(
        file=file,
        dtype_code=str(entry["dtype"]),
        shape=tuple(int(size) for size in entry["shape"]),
        start=first + int(start),
        stop=first + int(stop),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """A tensor to be written: its bytes are asked for only when their turn comes."""

    name: str
    dtype_code: str
    shape: tuple[int, ...]
    size_bytes: int
    content: Callable[[], bytes | memoryview]


def write_safetensors(file: Path, tensors: Sequence[PlannedTensor]) -> None:
    """Write the tensors to a new file, one at a time, with the metadata that transformers asks for.

    Raises ValueError when a tensor's content is not as long as planned.
    """
    # Wide dtypes first keeps every tensor aligned to its own width, as safetensors' own writer does.
    ordered = sorted(tensors, key=lambda tensor: (-DTYPES[tensor.dtype_code].itemsize, tensor.name))
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        header[tensor.name] = {
            "dtype": tensor.dtype_code,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size_bytes],
        }
        offset += tensor.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with file.open("xb") as stream:
        stream.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        stream.write(text)
        for tensor in ordered:
            content = tensor.content()
            if len(content) != tensor.size_bytes:
                raise ValueError(f"{tensor.name}: {len(content)} bytes, {tensor.size_bytes} were planned")
            stream.write(content)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a CPU tensor, row by row."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data
