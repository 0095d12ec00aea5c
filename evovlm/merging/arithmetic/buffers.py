"""The memory that the arithmetic works on: numbers as a checkpoint stores them, as float32, and buffers of them."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic import kernels

Raw = npt.NDArray[np.uint16] | npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

STORED: Mapping[str, np.dtype[np.generic]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""The numpy dtypes of the plain floats of safetensors; bfloat16, which numpy lacks, is held as its 16 bits."""


def widen(raw: Raw, out: Vector) -> None:
    """Write stored numbers into `out` as float32 (float64 is rounded)."""
    if raw.dtype == np.uint16:
        kernels.widen_bfloat16(raw, out)
    else:
        np.copyto(out, raw, casting="same_kind")


def narrow(vector: Vector, out: Raw) -> None:
    """Write float32 numbers into `out`, rounded to nearest (ties to even); large ones may become infinite."""
    if out.dtype == np.uint16:
        kernels.narrow_bfloat16(vector, out)
    else:
        np.copyto(out, vector, casting="same_kind")


@dataclass(slots=True, eq=False)
class MemoryBudget:
    """Memory that may be spent on caches; safe for threads."""

    left_bytes: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size_bytes: int) -> bool:
        """Take `size_bytes` from the budget and return True, or return False when less is left."""
        with self._lock:
            fits = size_bytes <= self.left_bytes
            self.left_bytes -= size_bytes if fits else 0
            return fits

    def give_back(self, size_bytes: int) -> None:
        """Give back bytes that were taken."""
        with self._lock:
            self.left_bytes += size_bytes


class _Free(threading.local):
    """The unused buffers of this thread, by the power of two that is their size in bytes."""

    def __init__(self) -> None:
        self.buffers: defaultdict[int, list[npt.NDArray[np.uint8]]] = defaultdict(list)


_free = _Free()


class Scratch:
    """A context manager that lends a flat array of `size` entries with undefined content, valid only inside `with`."""

    __slots__ = ("_buffer", "_dtype", "_power", "_size_bytes")

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._size_bytes = size * dtype.itemsize
        self._power = self._size_bytes.bit_length()

    def __enter__(self) -> npt.NDArray[Any]:
        free = _free.buffers[self._power]
        self._buffer = free.pop() if free else np.empty(1 << self._power, dtype=np.uint8)
        return self._buffer[: self._size_bytes].view(self._dtype)

    def __exit__(self, *_: object) -> None:
        _free.buffers[self._power].append(self._buffer)
