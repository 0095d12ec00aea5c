"""Writes safetensors files of full size, whose tensors arrive in any order and from any thread."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS, LENGTH_BYTES, METADATA

# Errors of file systems without this call (network and FUSE mounts); there only the size is set.
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """A tensor to be written: its name in the file, its dtype (safetensors' code) and shape."""

    name: str
    dtype_code: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of the tensor."""
        return math.prod(self.shape) * ITEM_BITS[self.dtype_code] // 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SafetensorsWriter:
    """A new safetensors file of full size, whose tensors are then written in any order; close it, or use it in `with`.

    The header has the metadata that transformers needs. Bytes that are not written read as zeros.
    """

    file: Path
    _descriptor: int
    _ranges: Mapping[str, tuple[int, int]]

    @staticmethod
    def create(file: Path, tensors: Iterable[PlannedTensor]) -> SafetensorsWriter:
        """Create the file with its header and space for every tensor, so that a full disk is found now.

        Raises FileExistsError when the file exists, OSError when it cannot be written.
        """
        # Wide dtypes first keep every tensor aligned to its width, as in safetensors' own writer.
        ordered = sorted(tensors, key=lambda tensor: (-ITEM_BITS[tensor.dtype_code], tensor.name))
        header: dict[str, Any] = {METADATA: {"format": "pt"}}
        offset = 0
        for tensor in ordered:
            header[tensor.name] = {
                "dtype": tensor.dtype_code,
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + tensor.size_bytes],
            }
            offset += tensor.size_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        first = LENGTH_BYTES + len(text)
        ranges: dict[str, tuple[int, int]] = {}
        for tensor in ordered:
            start = first + header[tensor.name]["data_offsets"][0]
            ranges[tensor.name] = (start, start + tensor.size_bytes)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _reserve(descriptor, first + offset)
            _write_at(descriptor, memoryview(len(text).to_bytes(LENGTH_BYTES, "little") + text), 0)
        except OSError:
            os.close(descriptor)
            raise
        return SafetensorsWriter(file=file, _descriptor=descriptor, _ranges=ranges)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # After a failure the file is discarded: waiting for the disk would only delay the message.
        if kind is None:
            self.close()
        else:
            os.close(self._descriptor)

    def offset(self, name: str) -> int:
        """Return the byte of the file at which a tensor starts."""
        return self._ranges[name][0]

    def write(self, name: str, start_byte: int, content: memoryview | bytes | bytearray) -> None:
        """Write bytes of a tensor from its byte `start_byte` on; threads may write at the same time.

        Raises ValueError when they do not fit into the tensor, OSError when the disk refuses the write.
        """
        view = memoryview(content)
        # An empty view in two dimensions cannot be cast.
        view = view.cast("B") if view.nbytes else memoryview(b"")
        start, stop = self._ranges[name]
        if not 0 <= start_byte <= start_byte + len(view) <= stop - start:
            raise ValueError(f"{name} has {stop - start} bytes; {len(view)} bytes do not fit at byte {start_byte}")
        _write_at(self._descriptor, view, start + start_byte)

    def close(self) -> None:
        """Close the file after everything is on the disk."""
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def _reserve(descriptor: int, size_bytes: int) -> None:
    """Give the file its full size, and reserve its blocks where the file system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
        else:
            return
    os.truncate(descriptor, size_bytes)


def _write_at(descriptor: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
