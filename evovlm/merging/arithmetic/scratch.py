"""Memory that is used again (to get it anew for every piece costs more than the arithmetic on it), or kept."""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(slots=True, eq=False)
class Room:
    """Memory that may be spent on what candidates of a search share; any thread takes from it."""

    left_bytes: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size_bytes: int) -> bool:
        """Take so many bytes; return False when there are fewer left."""
        with self._lock:
            fits = size_bytes <= self.left_bytes
            self.left_bytes -= size_bytes if fits else 0
            return fits


class _Free(threading.local):
    """The buffers that nobody of this thread uses now, by the power of two of bytes that they hold."""

    def __init__(self) -> None:
        self.buffers: defaultdict[int, list[npt.NDArray[np.uint8]]] = defaultdict(list)


_free = _Free()


class Scratch:
    """Lends, in `with`, a flat array of `size` entries, filled with anything; what was written to it is lost later."""

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
