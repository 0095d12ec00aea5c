"""The loop that merges all sources of a stretch of entries in one call, in steps that stay in the cache.

One call merges a quarter of a million entries without Python in between, so threads do not wait for one another. As
in `kernels.py`, every float operation rounds once, in float32, in the order that `combination.py` states.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic.kernels import compiled, multiply_add, narrow_one, scale_between, widen_one
from evovlm.merging.arithmetic.mark_kernels import (
    DRAW_WORDS,
    MARK_BYTES,
    STEP,
    mark_drawn,
    read_marks,
    scale_kept,
    widen_less,
)

EVERY, DRAWN, BETWEEN, MARKED = 0, 1, 2, 3
"""Which entries of a source are kept: all, by a draw, between two cuts by magnitude, or those that are marked."""


INDEX, WAY, LIMIT, LOW, LOW_LAST, HIGH, HIGH_LAST = range(7)
"""The columns of the whole numbers of a source."""


class Sources(NamedTuple):
    """The numbers of the k sources.

    `numbers` (int64, (k, 7)) gives each source's row in the draws that are cached in memory, which entries are kept,
    the limit of the draws, and the two cuts; `keys` (uint64, (k,)) belong to the draws; `factors` are float32, (k, 2);
    `marks` (uint8, (k, MARK_BYTES * steps)) is empty where no entries are marked; `row_factors` (float32, (k, rows)) is
    empty where no factor depends on the row.
    """

    numbers: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    factors: npt.NDArray[np.float32]
    marks: npt.NDArray[np.uint8]
    row_factors: npt.NDArray[np.float32]


class Joining(NamedTuple):
    """How the parts are added up (see `Combination` and `Election`); `weights` (float32, (2, k)) mix, and divide."""

    subtract: bool
    fused: bool
    elected: bool
    normalize: bool
    weights: npt.NDArray[np.float32]
    least: np.float32
    divisor: np.float32
    lambda_: np.float32


@compiled
def combine_entries(
    raws: Any,
    raw_base: Any,
    upper_draws: Any,
    start: int,
    row_start: int,
    row_length: int,
    sources: Sources,
    how: Joining,
    out: Any,
) -> None:
    """Merge a stretch: `raws` (k, n) and `raw_base` (n,) as stored (empty: no base is added), into `out` (n,).

    bfloat16 is read and written as uint16, all other numbers as float32. `upper_draws` (uint16, (sources, n), or
    without columns) holds the upper 16 bits of the draws. `start` is the index of the first entry, `row_start` its
    offset into the row factors.
    """
    k, n = raws.shape
    has_base = len(raw_base) > 0
    parts = np.empty((k, STEP), dtype=np.float32)
    base = np.empty(STEP, dtype=np.float32)
    mix = np.empty(STEP, dtype=np.float32)
    sign = np.empty(STEP, dtype=np.float32)
    divisor = np.empty(STEP, dtype=np.float32)
    absolute = np.empty(STEP, dtype=np.float32)
    kept = np.empty(STEP, dtype=np.bool_)
    words = np.empty(DRAW_WORDS, dtype=np.uint64)
    zero, one = np.float32(0), np.float32(1)
    for begin in range(0, n, STEP):
        size = min(STEP, n - begin)
        if has_base:
            widen_one(raw_base[begin : begin + size], base[:size])
        for s in range(k):
            part = parts[s, :size]
            widen_less(raws[s, begin : begin + size], base[: size if how.subtract else 0], part)
            numbers = sources.numbers[s]
            first, second = sources.factors[s, 0], sources.factors[s, 1]
            way = numbers[WAY]
            if way in (DRAWN, MARKED):
                if way == DRAWN:
                    upper = upper_draws[numbers[INDEX], begin : begin + size]
                    mark_drawn(kept[:size], upper, np.uint32(numbers[LIMIT]), sources.keys[s], start + begin, words)
                else:
                    step = begin // STEP * MARK_BYTES
                    read_marks(sources.marks[s, step : step + MARK_BYTES], kept)
                scale_kept(part, kept, first, second)
            elif way == BETWEEN:
                scale_between(
                    part,
                    start + begin,
                    np.uint32(numbers[LOW]),
                    numbers[LOW_LAST],
                    np.uint32(numbers[HIGH]),
                    numbers[HIGH_LAST],
                    first,
                    second,
                )
            elif not how.fused and (first != one or second != one):
                for i in range(size):
                    part[i] = part[i] * first * second
            if sources.row_factors.shape[1] > 0:
                done = 0
                while done < size:
                    row, column = (row_start + begin + done) // row_length, (row_start + begin + done) % row_length
                    factor, end = sources.row_factors[s, row], min(size, done + row_length - column)
                    for i in range(done, end):
                        part[i] = part[i] * factor
                    done = end
        for i in range(size):
            mix[i] = zero
        if how.elected:
            for s in range(k):
                part = parts[s, :size]
                for i in range(size):
                    mix[i] += part[i]
            for i in range(size):
                # Both comparisons are false for NaN, which so reaches the mix.
                sign[i] = one if mix[i] >= zero else (-one if mix[i] < zero else mix[i])
                mix[i] = zero
            # Multiplied by the elected sign, the entries that count are those above 0.
            for s in range(k):
                part = parts[s, :size]
                weight = how.weights[0, s]
                for i in range(size):
                    turned = part[i] * sign[i]
                    mix[i] += (turned if turned > zero else zero) * weight
            if how.normalize:
                for i in range(size):
                    divisor[i] = zero
                    absolute[i] = zero
                for s in range(k):
                    part = parts[s, :size]
                    weight = how.weights[1, s]
                    for i in range(size):
                        counted = weight if part[i] * sign[i] > zero else zero
                        divisor[i] += counted
                        absolute[i] += abs(counted)
                for i in range(size):
                    guarded = max(abs(divisor[i]), absolute[i] * how.least)
                    by = guarded if divisor[i] >= zero else -guarded
                    mix[i] = mix[i] / (by if by != zero else one)
            for i in range(size):
                mix[i] = mix[i] * sign[i]
        elif how.fused:
            for s in range(k):
                part = parts[s, :size]
                factor = sources.factors[s, 0]
                for i in range(size):
                    mix[i] = multiply_add(part[i], factor, mix[i])
        else:
            for s in range(k):
                part = parts[s, :size]
                if s == 0:
                    # Not added to 0, because that would turn -0 into 0.
                    for i in range(size):
                        mix[i] = part[i]
                else:
                    for i in range(size):
                        mix[i] += part[i]
        if not how.elected and how.divisor != one:
            for i in range(size):
                mix[i] = mix[i] / how.divisor
        if how.lambda_ != one:
            for i in range(size):
                mix[i] = mix[i] * how.lambda_
        if has_base:
            if k == 0:
                for i in range(size):
                    mix[i] = base[i]
            else:
                for i in range(size):
                    mix[i] = base[i] + mix[i]
        narrow_one(mix[:size], out[begin : begin + size])
