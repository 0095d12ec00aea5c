"""How the sources of one tensor are combined, as values, and the loop that computes it.

Every method is a sum over the sources: the entries of each are kept or set to 0, multiplied and added, and either all
of them count or only those with the elected sign. What a method computes from a whole tensor (angles, lengths, cuts) is
already in the factors and cuts, so one pass over the entries is enough and no whole tensor is ever in memory.

Arithmetic (float32, rounded once per operation, sources in the order of their names):
part_i = (d_i first_i) second_i where kept, else 0; mix = sum part_i, or the elected mix; then mix / divisor,
mix lambda, b + mix.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic import kernels, mark_kernels
from evovlm.merging.arithmetic.buffers import Raw, Scratch, Vector
from evovlm.merging.arithmetic.combine_kernel import (
    BETWEEN,
    DRAWN,
    EVERY,
    MARKED,
    Joining,
    Sources,
    combine_entries,
)
from evovlm.merging.arithmetic.selection import ALL, NOTHING, Cut, Marks, draw_halves
from evovlm.merging.arithmetic.task_vector import Chunk, Stretch, TaskVectors

_NO_DRAWS = np.empty((1, 0), dtype=np.uint16)
_NO_FACTORS = np.empty((0, 0), dtype=np.float32)
_NO_MARKS = np.empty(0, dtype=np.uint8)
_BOOL, _UINT64 = np.dtype(np.bool_), np.dtype(np.uint64)
LEAST_DIVISOR = 0.1
"""The least magnitude of a divisor, as a share of the sum of the absolute weights."""


class Keep(Protocol):
    """Decides which entries are kept."""

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """Multiply kept entries by both factors in turn, in place; set the others to 0. `start`: index of the first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepDrawn:
    """Keeps an entry whose draw is below the limit, which is below `ALL`; `marks` says which those are, if known."""

    key: int
    limit: int
    marks: Marks | None = field(default=None, compare=False, repr=False)

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """See `Keep`."""
        with Scratch(len(values), _BOOL) as kept, Scratch(mark_kernels.DRAW_WORDS, _UINT64) as words:
            mark_kernels.mark_drawn(kept, _NO_DRAWS[0], np.uint32(self.limit), np.uint64(self.key), start, words)
            mark_kernels.scale_kept(values, kept, first, second)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBetween:
    """Keeps the entries after the cut `high` up to the cut `low`, in order of magnitude, largest first."""

    low: Cut
    high: Cut

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """See `Keep`."""
        low, high = self.low, self.high
        kernels.scale_between(
            values, start, np.uint32(low.bits), low.last, np.uint32(high.bits), high.last, first, second
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepByRank:
    """DELLA: keeps an entry with a probability that grows with its rank in its row, from `lowest` by `reach`.

    `own` divides kept entries by that probability; otherwise `marks` may say which are kept, if known.
    Deep et al. 2024, arXiv 2406.11617, section 3.1.
    """

    key: int
    row_length: int
    lowest: float
    reach: float
    own: bool
    marks: Marks | None = field(default=None, compare=False, repr=False)

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """See `Keep`; `values` are whole rows."""
        with Scratch(len(values), _BOOL) as kept, Scratch(len(values), _UINT64) as keys:
            factors = self._mark(values, start, kept, keys)
            if self.own:
                mark_kernels.scale_by_rank(self._rows(values), self._rows(keys), self._rows(kept), factors)
            mark_kernels.scale_kept(values, kept, first, second)

    def mark(self, values: Vector, start: int, kept: npt.NDArray[np.bool_]) -> None:
        """Write into `kept` whether each of the entries from `start` on is kept; `values` are whole rows."""
        with Scratch(len(values), _UINT64) as keys:
            self._mark(values, start, kept, keys)

    def _mark(
        self, values: Vector, start: int, kept: npt.NDArray[np.bool_], keys: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.float32]:
        limits, factors = mark_kernels.rank_limits(self.row_length, self.lowest, self.reach)
        rows = self._rows(keys)
        mark_kernels.rank_rows(self._rows(values), rows)
        halves = draw_halves(self.key, start=start, size=len(values))
        mark_kernels.mark_by_rank(rows, self._rows(halves), limits, self._rows(kept))
        found: npt.NDArray[np.float32] = factors
        return found

    def _rows(self, entries: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return entries.reshape(-1, self.row_length)


Marking = KeepDrawn | KeepByRank
"""Rules whose choice of entries can be marked, apart from scaling them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepNear:
    """NearSwap: keeps an entry whole up to the magnitude `reach`, and of a larger one that much (alchemonaut 2024)."""

    reach: float

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:  # noqa: ARG002
        """See `Keep`."""
        kernels.scale_near(values, np.float32(self.reach), first, second)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeepImportant:
    """Arcee Fusion: keeps an entry whose magnitude times its row's factor reaches the threshold."""

    row_factors: npt.NDArray[np.float32]
    row_length: int
    threshold: np.float32

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """See `Keep`."""
        kernels.scale_important(values, start, self.row_factors, self.row_length, self.threshold, first, second)


class Across(Protocol):
    """Changes the entries of all sources together."""

    def apply(self, chunk: Chunk) -> None:
        """Change the parts of a chunk, in place."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DropSteady:
    """SCE: sets entries whose variance across the sources is below the cut to 0, in all sources."""

    cut: Cut

    def apply(self, chunk: Chunk) -> None:
        """See `Across`."""
        varied = np.empty(chunk.parts.shape[1], dtype=np.float32)
        kernels.variances(chunk.parts, varied)
        kept = np.empty(len(varied), dtype=np.bool_)
        kernels.keep_between(varied, chunk.start, np.uint32(self.cut.bits), self.cut.last, kept)
        np.multiply(chunk.parts, kept, out=chunk.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareChanges:
    """RAM: sets entries up to the threshold to 0, and divides the others by how many sources have one there."""

    threshold: float

    def apply(self, chunk: Chunk) -> None:
        """See `Across`."""
        kernels.share_changes(chunk.parts, np.float32(self.threshold))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """One source's part: its index, two factors, which entries are kept (None: all), and a factor per row (float32)."""

    index: int
    first: float
    second: float = 1.0
    keep: Keep | None = None
    row_factors: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Election:
    """Only entries with the elected sign count; they are multiplied by `mix_weights` and added.

    The sum of `divisor_weights` over the entries that count divides the mix (None: no division). Its magnitude is at
    least `least` times the sum of their absolute values.
    """

    mix_weights: tuple[float, ...]
    divisor_weights: tuple[float, ...] | None
    least: float = LEAST_DIVISOR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Combination:
    """A tensor of the result: its terms, how they are added up, and what happens to the sum.

    `fused` multiplies by the first factor and adds to the sum with one rounding, beginning at 0. `across` changes the
    entries of all sources before their terms. `whole_rows` says that chunks must consist of whole rows.
    """

    terms: tuple[Term, ...]
    election: Election | None = None
    divisor: float = 1.0
    lambda_: float = 1.0
    fused: bool = False
    across: Across | None = None
    whole_rows: bool = False


def combine(vectors: TaskVectors, combination: Combination, stretch: Stretch, out: Raw) -> None:
    """Write the merged entries of a stretch into `out`, rounded to its dtype."""
    terms = combination.terms
    only = tuple(term.index for term in terms)
    plain = out if out.dtype in (np.uint16, np.float32) else np.empty(stretch.size, dtype=np.float32)
    ways = tuple(_way(term.keep, stretch) for term in terms)
    if combination.across is not None or None in ways:
        with vectors.widened(stretch, only=only) as chunk:
            if combination.across is not None:
                combination.across.apply(chunk)
            for term, part in zip(terms, chunk.parts, strict=True):
                scale(term, part, start=chunk.start, row_length=vectors.row_length)
            base = chunk.parts[:0].reshape(-1) if chunk.base is None else chunk.base
            _run(vectors, combination, stretch, chunk.parts, base, plain)
    else:
        with vectors.loaded(stretch, only=only) as (raws, raw_base):
            _run(vectors, combination, stretch, raws, raw_base, plain, ways=ways)
    if plain is not out:
        np.copyto(out, plain, casting="same_kind")


def _run(
    vectors: TaskVectors,
    combination: Combination,
    stretch: Stretch,
    raws: npt.NDArray[np.generic],
    raw_base: npt.NDArray[np.generic],
    out: npt.NDArray[np.generic],
    *,
    ways: tuple[int | None, ...] | None = None,
) -> None:
    """Combine a stretch; without `ways`, `raws` are task vectors whose entries are kept and scaled already."""
    first_row, row_start = divmod(stretch.start, vectors.row_length)
    rows = slice(first_row, first_row + -(-(row_start + stretch.size) // vectors.row_length))
    terms = combination.terms
    combine_entries(
        raws,
        raw_base,
        vectors.upper_draws(stretch) if ways is not None and DRAWN in ways else _NO_DRAWS,
        stretch.start,
        row_start,
        vectors.row_length,
        _unchanged(len(terms)) if ways is None else _sources(terms, ways, stretch, rows=rows),
        _joining(combination, subtract=ways is not None and len(raw_base) > 0),
        out,
    )


def _way(keep: Keep | None, stretch: Stretch) -> int | None:
    """Return how the compiled loop finds which entries of a stretch are kept; None if it cannot."""
    if keep is None:
        return EVERY
    if isinstance(keep, Marking) and len(_marks(keep, stretch)) > 0:
        return MARKED
    return DRAWN if isinstance(keep, KeepDrawn) else BETWEEN if isinstance(keep, KeepBetween) else None


def _marks(keep: Keep | None, stretch: Stretch) -> npt.NDArray[np.uint8]:
    """Return the marks of a stretch; empty when it is not marked as a whole."""
    known = keep.marks if isinstance(keep, Marking) else None
    found = _NO_MARKS if known is None else known.get(stretch.start, _NO_MARKS)
    return found if len(found) == mark_kernels.mark_bytes(stretch.size) else _NO_MARKS


def _sources(terms: tuple[Term, ...], ways: tuple[int | None, ...], stretch: Stretch, *, rows: slice) -> Sources:
    """Return the terms as arrays."""
    numbers, keys, factors, marks = [], [], [], {}
    for row, (term, way) in enumerate(zip(terms, ways, strict=True)):
        keep, key, limit, low, high = term.keep, 0, 0, NOTHING, NOTHING
        if way == MARKED:
            marks[row] = _marks(keep, stretch)
        elif isinstance(keep, KeepDrawn):
            key, limit = keep.key, keep.limit
        elif isinstance(keep, KeepBetween):
            low, high = keep.low, keep.high
        numbers.append((term.index, way, limit, *low, *high))
        keys.append(key)
        factors.append((term.first, term.second))
    k = len(terms)
    sources = _unchanged(k)._replace(
        numbers=np.array(numbers, dtype=np.int64).reshape(k, 7),
        keys=np.array(keys, dtype=np.uint64),
        factors=np.array(factors, dtype=np.float32).reshape(k, 2),
        row_factors=_row_factors(terms, rows),
    )
    if marks:
        stacked = np.zeros((k, mark_kernels.mark_bytes(stretch.size)), dtype=np.uint8)
        for row, own in marks.items():
            stacked[row] = own
        sources = sources._replace(marks=stacked)
    return sources


@lru_cache(maxsize=256)
def _unchanged(k: int) -> Sources:
    """Return the arrays of k sources that are used unchanged; nobody writes into them."""
    return Sources(
        numbers=np.zeros((k, 7), dtype=np.int64),
        keys=np.zeros(k, dtype=np.uint64),
        factors=np.ones((k, 2), dtype=np.float32),
        marks=np.empty((k, 0), dtype=np.uint8),
        row_factors=_NO_FACTORS,
    )


def _row_factors(terms: tuple[Term, ...], rows: slice) -> npt.NDArray[np.float32]:
    columns = [term.row_factors[rows] for term in terms if term.row_factors is not None]
    return np.stack(columns) if columns else _NO_FACTORS


def _joining(combination: Combination, *, subtract: bool) -> Joining:
    election, k = combination.election, len(combination.terms)
    mix = election.mix_weights if election is not None else (1.0,) * k
    divisors = election.divisor_weights if election is not None else None
    return Joining(
        subtract=subtract,
        fused=combination.fused,
        elected=election is not None,
        normalize=divisors is not None,
        weights=np.array((mix, mix if divisors is None else divisors), dtype=np.float32),
        least=np.float32(0.0 if election is None else election.least),
        divisor=np.float32(combination.divisor),
        lambda_=np.float32(combination.lambda_),
    )


def scale(term: Term, part: Vector, *, start: int, row_length: int) -> None:
    """Apply a term to its source's entries, in place."""
    first, second = np.float32(term.first), np.float32(term.second)
    if term.keep is not None:
        term.keep.scale(part, start, first, second)
    else:
        for factor in (first, second):
            if factor != 1:
                np.multiply(part, factor, out=part)
    if term.row_factors is not None:
        rows = part.reshape(-1, row_length)
        begin = start // row_length
        np.multiply(rows, term.row_factors[begin : begin + len(rows), None], out=rows)


def keep_drawn(key: int, limit: int) -> KeepDrawn | None:
    """Return a rule that keeps draws below the limit; None if those are all draws."""
    return None if limit >= ALL else KeepDrawn(key=key, limit=limit)
