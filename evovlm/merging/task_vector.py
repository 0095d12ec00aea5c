"""One tensor of base and sources, read in stretches: as task vectors, or as the models themselves."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evovlm.errors import BrokenCheckpoint
from evovlm.merging import kernels
from evovlm.merging.floats import STORED, Raw, Vector, widen
from evovlm.merging.row_plan import RowPlan
from evovlm.merging.safetensors_file import TensorPlace
from evovlm.merging.scratch import Scratch
from evovlm.merging.selection import Entries, MagnitudeOrder

CHUNK = 1 << 15
"""Entries worked on at a time: with the values in between, as many as stay in the cache."""

PIECE_CHUNKS = 8
"""Chunks that are read and written at a time."""

_FLOAT32 = np.dtype(np.float32)


class Stretch(NamedTuple):
    """Entries `start` .. `start + size - 1` of the result, and where each model's own begin (by label)."""

    start: int
    size: int
    offsets: Mapping[str, int]


class Chunk(NamedTuple):
    """Some entries of all models: the first's index, the base's (float32, (n,)) if any, the sources' ((k, n)).

    `parts` holds task vectors where there is a base, models otherwise. Both are scratch: good until the next chunk.
    """

    start: int
    base: Vector | None
    parts: npt.NDArray[np.float32]


class ModelTensor(NamedTuple):
    """One model's tensor: the label it goes by ("base", "sources.NAME"), whose it is in messages, where it lies."""

    label: str
    owner: str
    place: TensorPlace

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """How numpy holds what is stored."""
        return STORED[self.place.dtype_code]

    def read(self, offset: int, out: Raw) -> None:
        """Fill `out` with entries from `offset` on, as stored. Raises BrokenCheckpoint when the file ends before."""
        if len(out):
            self.place.read_into(out.view(np.uint8).data, start=offset * self.dtype.itemsize)


@dataclass(slots=True, kw_only=True, eq=False)
class TaskVectors:
    """One tensor of all models under a plan of rows; what a method asks of it is worked out once and kept.

    `seed` and `source_names` name the draws. Entries are numbered as in the result: row-major, its kept rows included.
    `columns` is the number of entries in a row of the plan, `row_length` in a row that methods treat as one vector: the
    same, but for a tensor of one dimension, which is a single vector.
    """

    name: str
    plan: RowPlan
    columns: int
    row_length: int
    base: ModelTensor | None
    sources: tuple[ModelTensor, ...]
    source_names: tuple[str, ...]
    seed: int
    allow_non_finite: bool = False
    _orders: dict[int, MagnitudeOrder] = field(default_factory=dict)
    _gram: npt.NDArray[np.float64] | None = None
    _row_grams: npt.NDArray[np.float64] | None = None
    _largest: dict[int, float] = field(default_factory=dict)
    _sums: dict[int, int] = field(default_factory=dict)
    _looked_at: set[tuple[int, str]] = field(default_factory=set)

    @property
    def size(self) -> int:
        """How many entries are merged."""
        return self.plan.n_merged * self.columns

    def stretches(self, *, whole_rows: bool = False) -> Iterator[Stretch]:
        """Yield what is merged in pieces of whole chunks (or of whole rows), in the order of the result."""
        chunk = self.chunk_size(whole_rows=whole_rows)
        for run in self.plan.runs:
            size = run.n_rows * self.columns
            for done in range(0, size, PIECE_CHUNKS * chunk):
                yield Stretch(
                    start=run.row * self.columns + done,
                    size=min(PIECE_CHUNKS * chunk, size - done),
                    offsets={label: row * self.columns + done for label, row in run.starts.items()},
                )

    def chunk_size(self, *, whole_rows: bool = False) -> int:
        """How many entries are worked on at a time: about CHUNK, or the whole rows nearest below it (at least one)."""
        return max(1, CHUNK // self.row_length) * self.row_length if whole_rows else CHUNK

    def chunks(
        self, stretch: Stretch, *, only: tuple[int, ...] | None = None, whole_rows: bool = False
    ) -> Iterator[Chunk]:
        """Yield a stretch's entries of all sources, or of those whose numbers `only` gives, as float32.

        Raises BrokenCheckpoint for a number that is not finite, unless those are allowed.
        """
        chosen = self.sources if only is None else tuple(self.sources[index] for index in only)
        models = (*chosen, *([self.base] if self.base is not None else []))
        step = min(self.chunk_size(whole_rows=whole_rows), stretch.size)
        with ExitStack() as lent:
            raws = [lent.enter_context(Scratch(stretch.size, model.dtype)) for model in models]
            for raw, model in zip(raws, models, strict=True):
                model.read(stretch.offsets[model.label], raw)
            widened = lent.enter_context(Scratch(len(models) * step, _FLOAT32))
            for done in range(0, stretch.size, step):
                size = min(step, stretch.size - done)
                values = widened[: len(models) * size].reshape(len(models), size)
                for each, raw, model in zip(values, raws, models, strict=True):
                    widen(raw[done : done + size], each)
                    self._look_at(model, stretch.start, each)
                parts, base = values[: len(chosen)], values[-1] if self.base is not None else None
                if base is not None:
                    np.subtract(parts, base, out=parts)
                yield Chunk(start=stretch.start + done, base=base, parts=parts)
        self._looked_at.update((stretch.start, model.label) for model in models)

    def values(self, index: int, stretch: Stretch) -> Iterator[Entries]:
        """Yield a stretch of one source itself, not of its task vector, as float32."""
        alone = replace(self, base=None, sources=(self.sources[index],))
        for chunk in alone.chunks(stretch):
            yield Entries(chunk.start, chunk.parts[0])

    def magnitudes(self, index: int) -> MagnitudeOrder:
        """Return the order of a source's entries by magnitude."""

        def stretches() -> Iterator[Entries]:
            for stretch in self.stretches():
                for chunk in self.chunks(stretch, only=(index,)):
                    yield Entries(chunk.start, chunk.parts[0])

        if index not in self._orders:
            self._orders[index] = MagnitudeOrder(stretches)
        return self._orders[index]

    def variance_order(self) -> MagnitudeOrder:
        """Return the order of the entries by their variance among the sources."""

        def stretches() -> Iterator[Entries]:
            for stretch in self.stretches():
                for chunk in self.chunks(stretch):
                    varied = np.empty(chunk.parts.shape[1], dtype=np.float32)
                    kernels.variances(chunk.parts, varied)
                    yield Entries(chunk.start, varied)

        if -1 not in self._orders:
            self._orders[-1] = MagnitudeOrder(stretches)
        return self._orders[-1]

    def gram(self) -> npt.NDArray[np.float64]:
        """Return the inner products of the parts, shape (k, k), float64; summed chunk by chunk, in order."""
        if self._gram is None:
            total = np.zeros((len(self.sources), len(self.sources)))
            for stretch in self.stretches():
                for chunk in self.chunks(stretch):
                    total += _inner_products(chunk.parts)
            self._gram = total
        return self._gram

    def row_grams(self) -> npt.NDArray[np.float64]:
        """Return the inner products of the parts row by row, shape (rows of the result, k, k); 0 in other rows."""
        if self._row_grams is None:
            n_rows = self.plan.n_rows * self.columns // self.row_length
            grams = np.zeros((n_rows, len(self.sources), len(self.sources)))
            for stretch in self.stretches(whole_rows=True):
                for chunk in self.chunks(stretch, whole_rows=True):
                    rows = chunk.parts.reshape(len(chunk.parts), -1, self.row_length)
                    for offset in range(rows.shape[1]):
                        grams[chunk.start // self.row_length + offset] = _inner_products(rows[:, offset])
            self._row_grams = grams
        return self._row_grams

    def largest(self, index: int) -> float:
        """Return the largest magnitude of a source's entries."""
        if index not in self._largest:
            bits = 0
            for chunk in self._chunks_of(index):
                bits = max(bits, int(kernels.largest_magnitude(chunk.parts[0])))
            self._largest[index] = float(np.array(bits, dtype=np.uint32).view(np.float32))
        return self._largest[index]

    def magnitude_sum(self, index: int, kept: Callable[[Chunk], None] | None = None) -> int:
        """Return the sum of a source's magnitudes in whole units that depend on the source's entries alone.

        `kept` may set entries of the chunk's one part to 0 before they are summed. Summed as whole numbers, because a
        sum of floats depends on its order.
        """
        if kept is None and index in self._sums:
            return self._sums[index]
        largest = self.largest(index)
        if largest == 0:
            return 0
        # Units so small that the largest takes as many bits as a 63-bit sum of n of them can bear.
        unit = (1 << (62 - self.size.bit_length())) / largest
        total = 0
        for chunk in self._chunks_of(index):
            if kept is not None:
                kept(chunk)
            total += int(kernels.whole_sum(chunk.parts[0], unit))
        if kept is None:
            self._sums[index] = total
        return total

    def _chunks_of(self, index: int) -> Iterator[Chunk]:
        # Whole rows, as what sets entries to 0 may go by rows.
        for stretch in self.stretches(whole_rows=True):
            yield from self.chunks(stretch, only=(index,), whole_rows=True)

    def _look_at(self, model: ModelTensor, start: int, values: Vector) -> None:
        if self.allow_non_finite or (start, model.label) in self._looked_at or kernels.is_finite(values):
            return
        raise self.not_finite(model)

    def not_finite(self, model: ModelTensor) -> BrokenCheckpoint:
        """Return the error to raise when a model holds a number that is not finite, and those are not allowed."""
        return BrokenCheckpoint(
            f"{model.place.file.parent}: {self.name} holds numbers that are not finite (NaN or infinite). "
            f"It is {model.owner}; they would spread over the merge.\n"
            "    Fetch the model again, or allow them explicitly (merge --allow-non-finite)."
        )


def _inner_products(parts: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    k = len(parts)
    products = np.zeros((k, k))
    for i in range(k):
        for j in range(i, k):
            products[i, j] = products[j, i] = kernels.dot(parts[i], parts[j])
    return products
