"""One tensor of the base and the sources, read in stretches as task vectors or as the models' own numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.arithmetic import kernels
from evovlm.merging.arithmetic.buffers import STORED, MemoryBudget, Raw, Scratch, Vector, narrow, widen
from evovlm.merging.arithmetic.mark_kernels import largest_magnitudes, widen_parts
from evovlm.merging.arithmetic.product_kernels import inner_products
from evovlm.merging.arithmetic.selection import (
    Entries,
    MagnitudeOrder,
    Magnitudes,
    MagnitudesOnCpu,
    draw_halves,
    draw_key,
)
from evovlm.merging.checkpoint.safetensors_file import TensorPlace
from evovlm.merging.models.row_plan import RowPlan

CHUNK = 1 << 18
"""Number of entries processed at a time: few enough for the cache, enough to keep a thread busy."""

_FLOAT32 = np.dtype(np.float32)
_NO_DRAWS = np.empty((1, 0), dtype=np.uint16)
# Keys of orders that are not a source's.
_VARIANCE, _IMPORTANCE = -1, -2


class Stretch(NamedTuple):
    """Entries `start` .. `start + size - 1` of the result, and the offset of each model's own entries (by label)."""

    start: int
    size: int
    offsets: Mapping[str, int]


class Chunk(NamedTuple):
    """Some entries of all models: the index of the first, the base's (float32, (n,)) if any, the sources' ((k, n)).

    `parts` holds task vectors if there is a base, else the models' own numbers. Both are lent and may be changed.
    """

    start: int
    base: Vector | None
    parts: npt.NDArray[np.float32]


class ModelTensor(NamedTuple):
    """One model's tensor: its label ("base", "sources.NAME"), its model's name in messages, and its place in a file."""

    label: str
    owner: str
    place: TensorPlace

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The numpy dtype of the stored numbers."""
        return STORED[self.place.dtype_code]

    def read(self, offset: int, out: Raw) -> None:
        """Fill `out` with entries from `offset` on, as stored. Raises BrokenCheckpoint when the file is too short."""
        if len(out):
            self.place.read_into(out.view(np.uint8).data, start=offset * self.dtype.itemsize)


@dataclass(slots=True, kw_only=True, eq=False)
class TaskVectors:
    """One tensor of all models under a plan of rows; what methods need of it is computed once and cached.

    `seed` and `source_names` determine the draws. Entries are numbered as in the result: row-major, including rows that
    are not merged. `columns` is the number of entries in a row of the plan, `row_length` in a row that methods treat as
    one vector: the same, except that a tensor of one dimension is a single vector. `device` reads the magnitudes of the
    source with an index on another device than the CPU. `budget` is for caches that all candidates share.
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
    budget: MemoryBudget | None = None
    device: "Callable[[TaskVectors, int], Magnitudes] | None" = None
    _orders: dict[int, MagnitudeOrder] = field(default_factory=dict)
    _gram: npt.NDArray[np.float64] | None = None
    _row_grams: npt.NDArray[np.float64] | None = None
    _divergences: npt.NDArray[np.float32] | None = None
    _units: npt.NDArray[np.float64] | None = None
    _raws: dict[tuple[int, int, bool], npt.NDArray[Any]] = field(default_factory=dict)
    _held: dict[tuple[int, int, bool], npt.NDArray[Any]] = field(default_factory=dict)
    _holding: MemoryBudget | None = None
    _upper_draws: dict[tuple[int, int], npt.NDArray[np.uint16]] = field(default_factory=dict)
    _looked_at: set[tuple[int, str]] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Number of merged entries."""
        return self.plan.n_merged * self.columns

    def stretches(self, *, whole_rows: bool = False) -> Iterator[Stretch]:
        """Yield all merged entries in chunks (`whole_rows`: of at least one whole row), in the order of the result."""
        chunk = max(1, CHUNK // self.row_length) * self.row_length if whole_rows else CHUNK
        for run in self.plan.runs:
            size = run.n_rows * self.columns
            for done in range(0, size, chunk):
                yield Stretch(
                    start=run.row * self.columns + done,
                    size=min(chunk, size - done),
                    offsets={label: row * self.columns + done for label, row in run.starts.items()},
                )

    def hold(self, budget: MemoryBudget) -> None:
        """Hold what is read from now on for methods that read it again, within the budget, until `release`."""
        self._holding = budget

    def release(self) -> None:
        """Give back what was held."""
        if self._holding is not None:
            self._holding.give_back(sum(raws.nbytes for raws in self._held.values()))
            self._held.clear()
            self._holding = None

    @contextmanager
    def loaded(
        self, stretch: Stretch, *, only: tuple[int, ...], again: bool = False
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Lend a stretch of the sources with the indices `only`, (k, n), and of the base, (n,) or empty, as stored.

        Both are read-only. They are bfloat16 (as uint16) if all models are, else float32. `again` says that the same
        merge reads the stretch again.
        Raises BrokenCheckpoint for a number that is not finite, unless those are allowed.
        """
        first = only[0] if only else 0
        in_a_row = only == tuple(range(first, first + len(only)))
        kept = self._kept(stretch, usual=len(only) == len(self.sources), again=again) if in_a_row else None
        if kept is not None:
            yield kept[first : first + len(only)], kept[-1] if self.base is not None else kept[:0].reshape(-1)
            return
        models = self._models(only)
        with Scratch(len(models) * stretch.size, _kind(models)) as flat:
            rows = flat.reshape(len(models), stretch.size)
            self._read_all(models, stretch, rows)
            yield rows[: len(only)], rows[-1] if self.base is not None else flat[:0]

    def _kept(self, stretch: Stretch, *, usual: bool, again: bool) -> npt.NDArray[Any] | None:
        """Return a stretch of all sources and the base from a cache; read into it if there is memory for it."""
        # A copy without the base shares this cache (see GpuMerger).
        key = (stretch.start, stretch.size, self.base is not None)
        found = self._raws.get(key)
        if found is None:
            found = self._held.get(key)
        # Only what every candidate with weight on all sources reads is worth caching for all of them.
        lasting, passing = self.budget if usual else None, self._holding if again else None
        if found is not None or (lasting is None and passing is None):
            return found
        models = self._models(tuple(range(len(self.sources))))
        size_bytes = len(models) * stretch.size * _kind(models).itemsize
        if lasting is not None and lasting.take(size_bytes):
            cache = self._raws
        elif passing is not None and passing.take(size_bytes):
            cache = self._held
        else:
            return None
        read = np.empty((len(models), stretch.size), dtype=_kind(models))
        self._read_all(models, stretch, read)
        cache[key] = read
        return read

    def _models(self, only: tuple[int, ...]) -> list[ModelTensor]:
        return [*(self.sources[index] for index in only), *([self.base] if self.base is not None else [])]

    def _read_all(self, models: Sequence[ModelTensor], stretch: Stretch, rows: npt.NDArray[Any]) -> None:
        for row, model in zip(rows, models, strict=True):
            if model.dtype == rows.dtype:
                model.read(stretch.offsets[model.label], row)
            else:
                with Scratch(stretch.size, model.dtype) as raw:
                    model.read(stretch.offsets[model.label], raw)
                    widen(raw, row)
            self._look_at(model, stretch.start, row)

    @contextmanager
    def widened(self, stretch: Stretch, *, only: tuple[int, ...] | None = None, again: bool = False) -> Iterator[Chunk]:
        """Lend a stretch's entries of all sources, or of those with the indices `only`, as float32.

        `again` is as in `loaded`. Raises BrokenCheckpoint for a number that is not finite, unless those are allowed.
        """
        chosen = tuple(range(len(self.sources))) if only is None else only
        with (
            self.loaded(stretch, only=chosen, again=again) as (raws, raw_base),
            Scratch((len(chosen) + 1) * stretch.size, _FLOAT32) as flat,
        ):
            values = flat.reshape(len(chosen) + 1, stretch.size)
            parts, base = values[:-1], values[-1]
            widen_parts(raws, raw_base, parts, base)
            yield Chunk(start=stretch.start, base=base if len(raw_base) else None, parts=parts)

    def upper_draws(self, stretch: Stretch) -> npt.NDArray[np.uint16]:
        """Return the upper 16 bits of all sources' draws in a stretch, (k, n); no columns when the budget is spent."""
        found = self._upper_draws.get((stretch.start, stretch.size))
        if found is not None:
            return found
        if self.budget is None or not self.budget.take(2 * len(self.source_names) * stretch.size):
            return _NO_DRAWS
        drawn = np.empty((len(self.source_names), stretch.size), dtype=np.uint16)
        for row, source in zip(drawn, self.source_names, strict=True):
            halves = draw_halves(draw_key(self.seed, source, self.name), start=stretch.start, size=stretch.size)
            np.right_shift(halves, np.uint32(16), out=row, casting="unsafe")
        self._upper_draws[stretch.start, stretch.size] = drawn
        return drawn

    def chunks(self, *, only: tuple[int, ...] | None = None, whole_rows: bool = False) -> Iterator[Chunk]:
        """Yield all merged entries, in the order of the result; each chunk is valid until the next."""
        for stretch in self.stretches(whole_rows=whole_rows):
            with self.widened(stretch, only=only, again=True) as chunk:
                yield chunk

    def copy(self, index: int, stretch: Stretch, out: Raw) -> None:
        """Write a stretch of one source itself, not of its task vector, into `out`, rounded to its dtype."""
        model = self.sources[index]
        with Scratch(stretch.size, model.dtype) as raw, Scratch(stretch.size, _FLOAT32) as values:
            model.read(stretch.offsets[model.label], raw)
            widen(raw, values)
            self._look_at(model, stretch.start, values)
            narrow(values, out)

    def magnitudes(self, index: int) -> MagnitudeOrder:
        """Return the order of a source's entries by magnitude."""

        def entries() -> Iterator[Entries]:
            for chunk in self.chunks(only=(index,)):
                yield Entries(chunk.start, chunk.parts[0])

        if index not in self._orders:
            found = self.device(self, index) if self.device is not None else MagnitudesOnCpu(entries)
            self._orders[index] = MagnitudeOrder(found, budget=self.budget)
        return self._orders[index]

    def variance_order(self) -> MagnitudeOrder:
        """Return the order of the entries by their variance across the sources."""

        def entries() -> Iterator[Entries]:
            for chunk in self.chunks():
                varied = np.empty(chunk.parts.shape[1], dtype=np.float32)
                kernels.variances(chunk.parts, varied)
                yield Entries(chunk.start, varied)

        if _VARIANCE not in self._orders:
            self._orders[_VARIANCE] = MagnitudeOrder(MagnitudesOnCpu(entries), budget=self.budget)
        return self._orders[_VARIANCE]

    def divergences(self) -> npt.NDArray[np.float32]:
        """Return KL(softmax(source) || softmax(base)) of each row of the one source, shape (rows of the result,)."""
        if self._divergences is None:
            found = np.zeros(self.plan.n_rows * self.columns // self.row_length, dtype=np.float32)
            for chunk in self.chunks(whole_rows=True):
                if chunk.base is not None:
                    rows = zip(
                        chunk.base.reshape(-1, self.row_length),
                        chunk.parts[0].reshape(-1, self.row_length),
                        strict=True,
                    )
                    for row, (base, part) in enumerate(rows, start=chunk.start // self.row_length):
                        found[row] = kernels.divergence(base, part)
            self._divergences = found
        return self._divergences

    def importance_order(self) -> MagnitudeOrder:
        """Return the order of the one source's entries by magnitude times the divergence of their row."""
        factors = self.divergences()

        def entries() -> Iterator[Entries]:
            for chunk in self.chunks():
                first, offset = divmod(chunk.start, self.row_length)
                n_rows = -(-(offset + chunk.parts.shape[1]) // self.row_length)
                by = np.repeat(factors[first : first + n_rows], self.row_length)[offset:]
                yield Entries(chunk.start, np.abs(chunk.parts[0]) * by[: chunk.parts.shape[1]])

        if _IMPORTANCE not in self._orders:
            self._orders[_IMPORTANCE] = MagnitudeOrder(MagnitudesOnCpu(entries), budget=self.budget)
        return self._orders[_IMPORTANCE]

    def gram(self) -> npt.NDArray[np.float64]:
        """Return the inner products of the parts, shape (k, k), float64; summed chunk by chunk, in order."""
        if self._gram is None:
            total = np.zeros((1, len(self.sources), len(self.sources)))
            for stretch in self.stretches():
                self._add_products(stretch, stretch.size, total)
            self._gram = total[0]
        return self._gram

    def row_grams(self) -> npt.NDArray[np.float64]:
        """Return the inner products of the parts row by row, shape (rows of the result, k, k); 0 in other rows."""
        if self._row_grams is None:
            n_rows = self.plan.n_rows * self.columns // self.row_length
            grams = np.zeros((n_rows, len(self.sources), len(self.sources)))
            for stretch in self.stretches(whole_rows=True):
                self._add_products(stretch, self.row_length, grams[stretch.start // self.row_length :])
            self._row_grams = grams
        return self._row_grams

    def _add_products(self, stretch: Stretch, length: int, products: npt.NDArray[np.float64]) -> None:
        with self.loaded(stretch, only=tuple(range(len(self.sources))), again=True) as (raws, raw_base):
            inner_products(raws, raw_base, length, products)

    def units(self, *, whole_rows: bool = False) -> npt.NDArray[np.float64]:
        """Return, for each source, the units in which its magnitudes are summed as whole numbers; 0 if all are 0.

        1 / unit is as small as it can be without an overflow of the 63-bit sum of all entries. `whole_rows` says how
        the entries are read, as the following passes do.
        """
        if self._units is None:
            # Of all sources in one pass, which reads the base once.
            bits = np.zeros(len(self.sources), dtype=np.uint32)
            for stretch in self.stretches(whole_rows=whole_rows):
                with self.loaded(stretch, only=tuple(range(len(self.sources))), again=True) as (raws, raw_base):
                    largest_magnitudes(raws, raw_base, bits)
            n_units = 1 << (62 - self.size.bit_length())
            self._units = np.array([n_units / most if (most := float(each)) else 0.0 for each in bits.view(np.float32)])
        return self._units

    def _look_at(self, model: ModelTensor, start: int, raw: npt.NDArray[Any]) -> None:
        if self.allow_non_finite or (start, model.label) in self._looked_at:
            return
        if kernels.is_finite(raw):
            self._looked_at.add((start, model.label))
            return
        raise self.not_finite(model)

    def not_finite(self, model: ModelTensor) -> BrokenCheckpoint:
        """Return the error for a model that holds numbers which are not finite."""
        return BrokenCheckpoint(
            f"{model.place.file.parent}: {self.name} holds numbers that are not finite (NaN or infinite), which would "
            f"spread through the merge. The model is {model.owner}.\n"
            "    Fetch the model again, or allow such numbers: merge --allow-non-finite."
        )


def _kind(models: Sequence[ModelTensor]) -> np.dtype[Any]:
    return np.dtype(np.uint16) if all(model.dtype == np.uint16 for model in models) else _FLOAT32
