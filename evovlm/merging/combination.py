"""What a method makes of one tensor, as values, and the one loop that carries it out.

Every method comes down to a sum over the sources: each one's entries are kept or set to 0, multiplied, added, and
either all count or only those with the elected sign. What a method needs to know of a whole tensor (angles, lengths,
cuts) is in the factors and cuts beforehand, so the entries are walked over once, and no whole tensor is ever in memory.

Arithmetic (float32, one rounding an operation, sources in the order of their names):
part_i = (d_i first_i) second_i where kept, else 0; mix = sum part_i, or the elected mix; mix / divisor; mix lambda; b
+ mix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evovlm.merging import kernels
from evovlm.merging.floats import Vector
from evovlm.merging.scratch import Scratch
from evovlm.merging.selection import ALL, Cut, Entries, n_words, write_draws
from evovlm.merging.task_vector import Chunk, Stretch, TaskVectors

_UINT64 = np.dtype("<u8")
LEAST_DIVISOR = 0.1
"""A divisor is never nearer to 0 than this share of the sum of the absolute weights."""


class Keep(Protocol):
    """Says which entries are kept."""

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """Multiply what is kept by both factors in turn, in place; the rest becomes 0. `start` is the first's index."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepDrawn:
    """Keeps an entry whose draw is below the limit."""

    key: int
    limit: int

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """As in `Keep`."""
        with Scratch(n_words(start, len(values)), _UINT64) as words:
            draws = write_draws(self.key, start, words, len(values))
            kernels.scale_drawn(values, draws, np.uint32(self.limit), first, second)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBetween:
    """Keeps the entries up to the cut `low` but for those up to the cut `high`, largest magnitude first."""

    low: Cut
    high: Cut

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """As in `Keep`."""
        low, high = self.low, self.high
        kernels.scale_between(
            values, start, np.uint32(low.bits), low.last, np.uint32(high.bits), high.last, first, second
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepByRank:
    """DELLA: keeps an entry with a probability that grows with its rank in its row, from `lowest` by `reach`.

    `own` divides what is kept by that probability. Deep et al. 2024, arXiv 2406.11617, section 3.1.
    """

    key: int
    row_length: int
    lowest: float
    reach: float
    own: bool

    def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None:
        """As in `Keep`; `values` are whole rows."""
        rows = values.reshape(-1, self.row_length)
        keys = np.empty(self.row_length, dtype=np.uint64)
        with Scratch(n_words(start, len(values)), _UINT64) as words:
            draws = write_draws(self.key, start, words, len(values))
            for row, own_draws in zip(rows, draws.reshape(rows.shape), strict=True):
                kernels.sort_keys(row, keys)
                keys.sort()
                kernels.scale_by_rank(row, keys, own_draws, self.lowest, self.reach, self.own, first, second)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """One source's part: which source, two factors, what is kept (None: all), and a factor for each row (float32)."""

    index: int
    first: float
    second: float = 1.0
    keep: Keep | None = None
    row_factors: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Election:
    """Only entries with the elected sign count; they are multiplied by `mix_weights` and added.

    `divisor_weights` (None: nothing is divided) are summed over what counts and divide the mix, kept away from 0 by
    `least` times the sum of their absolute values.
    """

    mix_weights: tuple[float, ...]
    divisor_weights: tuple[float, ...] | None
    least: float = LEAST_DIVISOR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Combination:
    """A tensor of the result: the terms, how they are joined, and what is done with the mix.

    `fused` rounds each first factor's product and its addition to the sum once, in one step, beginning at 0.
    `varying` keeps, in all sources alike, the entries up to this cut by variance. `whole_rows` says that something goes
    by rows.
    """

    terms: tuple[Term, ...]
    election: Election | None = None
    divisor: float = 1.0
    lambda_: float = 1.0
    fused: bool = False
    varying: Cut | None = None
    whole_rows: bool = False


def combine(vectors: TaskVectors, combination: Combination, stretch: Stretch) -> Iterator[Entries]:
    """Yield the merged entries of a stretch, chunk by chunk."""
    terms = combination.terms
    only = None if combination.varying is not None else tuple(term.index for term in terms)
    for chunk in vectors.chunks(stretch, only=only, whole_rows=combination.whole_rows):
        if combination.varying is not None:
            drop_steady(chunk, combination.varying)
        if terms:
            yield Entries(chunk.start, _combined(chunk, combination, row_length=vectors.row_length))
        else:
            nothing = np.zeros(chunk.parts.shape[1], dtype=np.float32)
            yield Entries(chunk.start, nothing if chunk.base is None else chunk.base)


def _combined(chunk: Chunk, combination: Combination, *, row_length: int) -> Vector:
    for term, part in zip(combination.terms, chunk.parts, strict=True) if not combination.fused else ():
        scale(term, part, start=chunk.start, row_length=row_length)
    mix = _mixed(chunk.parts, combination)
    if combination.lambda_ != 1.0:
        np.multiply(mix, np.float32(combination.lambda_), out=mix)
    if chunk.base is not None:
        np.add(chunk.base, mix, out=mix)
    return mix


def scale(term: Term, part: Vector, *, start: int, row_length: int) -> None:
    """Keep and multiply a source's entries as the term says, in place."""
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


def _mixed(parts: npt.NDArray[np.float32], combination: Combination) -> Vector:
    election = combination.election
    if election is not None:
        mix: Vector = np.empty(parts.shape[1], dtype=np.float32)
        weights = election.mix_weights if election.divisor_weights is None else election.divisor_weights
        kernels.elect(
            parts,
            np.array(election.mix_weights, dtype=np.float32),
            np.array(weights, dtype=np.float32),
            np.float32(election.least),
            election.divisor_weights is not None,
            mix,
        )
        return mix
    if combination.fused:
        mix = np.zeros(parts.shape[1], dtype=np.float32)
        for term, part in zip(combination.terms, parts, strict=True):
            kernels.add_scaled(mix, part, np.float32(term.first))
    else:
        mix = parts[0]
        for part in parts[1:]:
            np.add(mix, part, out=mix)
    if combination.divisor != 1.0:
        np.divide(mix, np.float32(combination.divisor), out=mix)
    return mix


def drop_steady(chunk: Chunk, cut: Cut) -> None:
    """Set the entries that vary too little among the sources to 0, in all of them."""
    varied = np.empty(chunk.parts.shape[1], dtype=np.float32)
    kernels.variances(chunk.parts, varied)
    kept = np.empty(len(varied), dtype=np.bool_)
    kernels.keep_between(varied, chunk.start, np.uint32(cut.bits), cut.last, kept)
    np.multiply(chunk.parts, kept, out=chunk.parts)


def keep_drawn(key: int, limit: int) -> KeepDrawn | None:
    """Return what keeps draws below the limit; None where that is all of them."""
    return None if limit >= ALL else KeepDrawn(key=key, limit=limit)
