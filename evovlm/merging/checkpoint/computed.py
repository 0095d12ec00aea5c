"""Tensors whose numbers are computed while they are read: adapters, quantised weights, another dtype.

A chunk is computed when it is read and then forgotten, so that a model is never held twice. Every number is computed in
float32, in an order that does not depend on the chunk, and rounded once to the dtype of its place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic import kernels
from evovlm.merging.arithmetic.buffers import STORED, Raw, Vector, narrow, widen
from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS, TensorPlace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PIECE = 1 << 20
"""Numbers computed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedPlace(TensorPlace, ABC):
    """A tensor that is computed from others; `file` is the file of the first of them, `start` is 0."""

    @abstractmethod
    def numbers(self, first: int, count: int) -> Vector:
        """Return the numbers `first` .. `first + count - 1` (row-major) as float32, before they are rounded."""

    def read_into(self, target: memoryview | bytearray, *, start: int = 0) -> None:
        """Fill `target` with the tensor's bytes from its byte `start` on. Raises BrokenCheckpoint as any place does."""
        view = memoryview(target).cast("B")
        item = ITEM_BITS[self.dtype_code] // 8
        done = 0
        while done < len(view):
            first, skipped = divmod(start + done, item)
            count = min(_PIECE, -(-(skipped + len(view) - done) // item))
            stored: Raw = np.empty(count, dtype=STORED[self.dtype_code])
            with np.errstate(all="ignore"):
                narrow(self.numbers(first, count), stored)
            content = stored.view(np.uint8).data[skipped : skipped + len(view) - done]
            view[done : done + len(content)] = content
            done += len(content)


def read_numbers(place: TensorPlace, first: int = 0, count: int | None = None) -> Vector:
    """Return numbers of a tensor of plain floats, row-major, as float32. Raises BrokenCheckpoint as reading it does."""
    if isinstance(place, ComputedPlace) and STORED[place.dtype_code] == np.float32:
        return place.numbers(first, math.prod(place.shape) if count is None else count)
    size = math.prod(place.shape) if count is None else count
    raw: Raw = np.empty(size, dtype=STORED[place.dtype_code])
    if size:
        place.read_into(raw.view(np.uint8).data, start=first * raw.dtype.itemsize)
    out = np.empty(size, dtype=np.float32)
    widen(raw, out)
    return out


def size_of(shape: Sequence[int], dtype_code: str) -> int:
    """Return the bytes of a tensor."""
    return math.prod(shape) * ITEM_BITS[dtype_code] // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CastPlace(ComputedPlace):
    """A tensor in another dtype."""

    source: TensorPlace

    @staticmethod
    def of(source: TensorPlace, dtype_code: str) -> TensorPlace:
        """Return the tensor in the dtype of that code: itself where it has that dtype already."""
        if source.dtype_code == dtype_code:
            return source
        return CastPlace(
            file=source.file,
            name=source.name,
            dtype_code=dtype_code,
            shape=source.shape,
            start=0,
            stop=size_of(source.shape, dtype_code),
            source=source,
        )

    def numbers(self, first: int, count: int) -> Vector:
        """Return the source's numbers."""
        return read_numbers(self.source, first, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedPlace(ComputedPlace):
    """A matrix with other or further rows, each the mean of rows of other tensors (tensor, row) of the same width."""

    source: TensorPlace
    rows: Mapping[int, Sequence[tuple[TensorPlace, int]]]

    @staticmethod
    def of(source: TensorPlace, rows: Mapping[int, Sequence[tuple[TensorPlace, int]]]) -> ExtendedPlace:
        """Return the matrix with these rows, in its dtype; those beyond its last one follow without a gap."""
        shape = (max(source.shape[0], *(row + 1 for row in rows)), *source.shape[1:])
        return ExtendedPlace(
            file=source.file,
            name=source.name,
            dtype_code=source.dtype_code,
            shape=shape,
            start=0,
            stop=size_of(shape, source.dtype_code),
            source=source,
            rows=rows,
        )

    def numbers(self, first: int, count: int) -> Vector:
        """Return the numbers of the matrix."""
        columns = math.prod(self.shape[1:])
        out = np.zeros(count, dtype=np.float32)
        n_own = min(count, max(math.prod(self.source.shape) - first, 0))
        if n_own:
            out[:n_own] = read_numbers(self.source, first, n_own)
        for row, origins in self.rows.items():
            start, stop = max(first, row * columns), min(first + count, (row + 1) * columns)
            if start < stop:
                parts = [read_numbers(place, own * columns, columns).astype(np.float64) for place, own in origins]
                mean = (np.sum(parts, axis=0) / len(parts)).astype(np.float32)
                out[start - first : stop - first] = mean[start - row * columns : stop - row * columns]
        return out


@dataclass(slots=True, kw_only=True, eq=False)
class LowRank:
    """The product `scale` left @ right, shape (rows, columns), of an adapter's two factors, read when first needed.

    `left_place` has the shape (rows, rank) and `right_place` (rank, columns), unless both `are_transposed`.
    """

    left_place: TensorPlace
    right_place: TensorPlace
    scale: float
    are_transposed: bool
    _factors: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = field(default=None)

    def add_to(self, values: Vector, *, first: int, columns: int) -> None:
        """Add the product's entries from `first` on to `values`. Raises BrokenCheckpoint for an unreadable factor."""
        left, right = self._loaded()
        kernels.add_low_rank(values, first, columns, left, right, np.float32(self.scale))

    def _loaded(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        # Two threads may both read them; either result is the same.
        if self._factors is None:
            left, right = _matrix(self.left_place), _matrix(self.right_place)
            if self.are_transposed:
                left, right = np.ascontiguousarray(left.T), np.ascontiguousarray(right.T)
            self._factors = left, right
        return self._factors


def _matrix(place: TensorPlace) -> npt.NDArray[np.float32]:
    # The factors of a convolution have further dimensions of the kernel.
    return read_numbers(place).reshape(place.shape[0], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedPlace(ComputedPlace):
    """A tensor W changed by an adapter: some rows replaced, then a low-rank product and a bias added.

    With `magnitude` (DoRA, Liu et al. 2024, equation 5), each row of the sum is scaled to that length.
    """

    source: TensorPlace
    rows: Mapping[int, int]
    """For each replaced row, its row in `row_place`."""
    row_place: TensorPlace | None = None
    product: LowRank | None = None
    bias: TensorPlace | None = None
    bias_scale: float = 1.0
    magnitude: TensorPlace | None = None

    @staticmethod
    def of(source: TensorPlace, **changes: Any) -> AdaptedPlace:
        """Return the tensor with these changes, in the dtype of `source`."""
        return AdaptedPlace(
            file=source.file,
            name=changes.pop("name", source.name),
            dtype_code=source.dtype_code,
            shape=source.shape,
            start=0,
            stop=source.size_bytes,
            source=source,
            rows=changes.pop("rows", {}),
            **changes,
        )

    def numbers(self, first: int, count: int) -> Vector:
        """Return the changed numbers."""
        columns = math.prod(self.shape[1:])
        if self.magnitude is None:
            return self._summed(first, count, columns)
        top, bottom = first // columns, -(-(first + count) // columns)
        whole = self._summed(top * columns, (bottom - top) * columns, columns)
        lengths = read_numbers(self.magnitude, top, bottom - top)
        kernels.scale_rows_to(whole, columns, lengths)
        return whole[first - top * columns :][:count]

    def _summed(self, first: int, count: int, columns: int) -> Vector:
        values = read_numbers(self.source, first, count)
        for row in range(first // columns, -(-(first + count) // columns)) if self.rows else ():
            own = self.rows.get(row)
            start, stop = max(first, row * columns), min(first + count, (row + 1) * columns)
            if own is not None and self.row_place is not None:
                offset = own * columns + start - row * columns
                values[start - first : stop - first] = read_numbers(self.row_place, offset, stop - start)
        if self.product is not None:
            self.product.add_to(values, first=first, columns=columns)
        if self.bias is not None:
            values += np.float32(self.bias_scale) * read_numbers(self.bias, first, count)
        return values
