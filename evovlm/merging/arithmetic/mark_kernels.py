"""Compiled loops that choose the entries to be kept, by a draw or by rank, and store the choice in one bit for each."""

from typing import Any

import numpy as np

from evovlm.merging.arithmetic.kernels import compiled, draw_halves, widen_one

STEP = 1024
"""Number of entries of each source that are processed at a time."""
DRAW_WORDS = STEP // 2 + 8
"""Number of 64-bit words that hold the draws of a step."""
MARK_BYTES = STEP // 8
"""Bytes of the marks of one step: bit p of byte j says whether the step's entry p * MARK_BYTES + j is kept."""


def mark_bytes(size: int) -> int:
    """Return the number of bytes of the marks of `size` entries."""
    return -(-size // STEP) * MARK_BYTES


@compiled
def mark_drawn(kept: Any, upper: Any, limit: Any, key: Any, start: int, words: Any) -> None:
    """Write into `kept` (bool) whether the draws of entries from `start` on are below `limit`.

    `upper` (uint16, like `kept`, or empty) holds their upper 16 bits; where one equals that of the limit, the whole
    draws decide. `words` is room for the draws of a step: uint64, (DRAW_WORDS,).
    """
    if len(upper) > 0:
        high = np.uint16(limit >> np.uint32(8))
        equal = 0
        for i in range(len(kept)):
            equal += 1 if upper[i] == high else 0
        if equal == 0:
            for i in range(len(kept)):
                kept[i] = upper[i] < high
            return
    # The lowest 8 of the 32 bits do not belong to the draw and do not change how it compares with the limit.
    bound = np.uint32(limit << np.uint32(8))
    for begin in range(0, len(kept), STEP):
        flags = kept[begin : begin + STEP]
        halves = draw_halves(key, start + begin, len(flags), words)
        for i in range(len(flags)):
            flags[i] = halves[i] < bound


@compiled
def read_marks(marks: Any, kept: Any) -> None:
    """Write the marks of one step into `kept` (bool, (STEP,))."""
    for plane in range(8):
        for j in range(MARK_BYTES):
            kept[plane * MARK_BYTES + j] = (marks[j] >> np.uint8(plane)) & np.uint8(1)


@compiled
def write_marks(kept: Any, marks: Any) -> None:
    """Write the marks of one step from `kept` (bool, (STEP,))."""
    for j in range(MARK_BYTES):
        marks[j] = np.uint8(0)
    for plane in range(8):
        for j in range(MARK_BYTES):
            marks[j] |= np.uint8(kept[plane * MARK_BYTES + j]) << np.uint8(plane)


@compiled
def scale_kept(vector: Any, kept: Any, first: Any, second: Any) -> None:
    """Multiply the kept entries by two float32 factors in turn; the others become 0."""
    for i in range(len(vector)):
        vector[i] = vector[i] * first * second if kept[i] else np.float32(0)


@compiled
def widen_less(raw: Any, base: Any, out: Any) -> None:
    """Write stored numbers less those of the base (float32; empty: as they are) into `out` as float32."""
    widen_one(raw, out)
    for i in range(len(base)):
        out[i] = out[i] - base[i]


@compiled
def widen_parts(raws: Any, raw_base: Any, parts: Any, base: Any) -> None:
    """Write a stretch of all parts, less those of the base if it has entries, and the base into float32 arrays.

    `raws` and `raw_base` are as in `combine_entries`.
    """
    k, n = raws.shape
    for begin in range(0, n, STEP):
        end = min(begin + STEP, n)
        of_base = base[begin : min(end, len(raw_base))]
        widen_one(raw_base[begin : begin + len(of_base)], of_base)
        for s in range(k):
            widen_less(raws[s, begin:end], of_base, parts[s, begin:end])


@compiled
def largest_magnitudes(raws: Any, raw_base: Any, found: Any) -> None:
    """Raise `found` (uint32, (k,)) to the bits of the largest magnitude of each part of a stretch.

    `raws` and `raw_base` are as in `combine_entries`.
    """
    k, n = raws.shape
    base, part = np.empty(STEP, dtype=np.float32), np.empty(STEP, dtype=np.float32)
    bits = part.view(np.uint32)
    for begin in range(0, n, STEP):
        size = min(STEP, n - begin)
        of_base = base[: min(size, len(raw_base))]
        widen_one(raw_base[begin : begin + size], of_base)
        for s in range(k):
            widen_less(raws[s, begin : begin + size], of_base, part[:size])
            largest = np.uint32(0)
            for i in range(size):
                largest = max(largest, bits[i] & np.uint32(0x7FFFFFFF))
            found[s] = max(found[s], largest)


@compiled
def _sum_step(part: Any, kept: Any, unit: float, marks: Any) -> Any:
    """Return what `sum_kept` does for one step; `kept` is bool, (STEP,)."""
    total, of_kept = np.int64(0), np.int64(0)
    for i in range(len(part)):
        whole = np.int64(np.float64(abs(part[i])) * unit)
        total += whole
        of_kept += whole if kept[i] else np.int64(0)
    write_marks(kept, marks)
    return total, of_kept


@compiled
def sum_kept(vector: Any, kept: Any, unit: float, marks: Any) -> Any:
    """Return the exact sums of all and of the kept magnitudes, in units of 1 / `unit`, and write the marks.

    Each magnitude is truncated to a whole number, because a sum of floats depends on its order. `kept` is bool, like
    `vector`; `marks` uint8, MARK_BYTES for each step.
    """
    total, of_kept = np.int64(0), np.int64(0)
    flags = np.zeros(STEP, dtype=np.bool_)
    for begin in range(0, len(vector), STEP):
        size = min(STEP, len(vector) - begin)
        for i in range(size):
            flags[i] = kept[begin + i]
        step = begin // STEP * MARK_BYTES
        both = _sum_step(vector[begin : begin + size], flags, unit, marks[step : step + MARK_BYTES])
        total, of_kept = total + both[0], of_kept + both[1]
    return total, of_kept


@compiled
def sum_drawn(
    raws: Any, raw_base: Any, upper_draws: Any, start: int, numbers: Any, keys: Any, units: Any, marks: Any, sums: Any
) -> None:
    """Add to `sums` (int64, (k, 2)) what `sum_kept` returns for each part of a stretch, and write `marks` (k, bytes).

    `raws`, `raw_base` and `upper_draws` are as in `combine_entries`. `numbers` (int64, (k, 2)) gives each source's row
    in the draws and their limit, `keys` (uint64, (k,)) belong to the draws. `start` is the index of the first entry,
    `units` float64, (k,).
    """
    k, n = raws.shape
    base, part = np.empty(STEP, dtype=np.float32), np.empty(STEP, dtype=np.float32)
    kept, words = np.zeros(STEP, dtype=np.bool_), np.empty(DRAW_WORDS, dtype=np.uint64)
    for begin in range(0, n, STEP):
        size, step = min(STEP, n - begin), begin // STEP * MARK_BYTES
        of_base = base[: min(size, len(raw_base))]
        widen_one(raw_base[begin : begin + size], of_base)
        for s in range(k):
            widen_less(raws[s, begin : begin + size], of_base, part[:size])
            upper = upper_draws[numbers[s, 0], begin : begin + size]
            mark_drawn(kept[:size], upper, np.uint32(numbers[s, 1]), keys[s], start + begin, words)
            both = _sum_step(part[:size], kept, units[s], marks[s, step : step + MARK_BYTES])
            sums[s, 0] += both[0]
            sums[s, 1] += both[1]


@compiled
def rank_rows(rows: Any, keys: Any) -> None:
    """Write keys (uint64, like `rows`) in the order of magnitude of each row, smallest first, equal ones by index.

    The upper 32 bits of a key are the magnitude, the lower ones the index in the row. A stable radix sort by bytes.
    """
    n = rows.shape[1]
    spare = np.empty(n, dtype=np.uint64)
    counts = np.empty((4, 256), dtype=np.int64)
    for r in range(len(rows)):
        bits, one, other, in_spare = rows[r].view(np.uint32), keys[r], spare, False
        counts[:] = 0
        for i in range(n):
            magnitude = bits[i] & np.uint32(0x7FFFFFFF)
            one[i] = (np.uint64(magnitude) << np.uint64(32)) | np.uint64(i)
            for digit in range(4):
                counts[digit, (magnitude >> np.uint32(8 * digit)) & np.uint32(255)] += 1
        for digit in range(4):
            shift, places = np.uint64(32 + 8 * digit), counts[digit]
            # Differences of bfloat16 numbers have low bytes that are 0 almost everywhere.
            if n == 0 or places[(one[0] >> shift) & np.uint64(255)] == n:
                continue
            before = 0
            for value in range(256):
                before, places[value] = before + places[value], before
            for i in range(n):
                value = (one[i] >> shift) & np.uint64(255)
                other[places[value]] = one[i]
                places[value] += 1
            one, other, in_spare = other, one, not in_spare
        if in_spare:
            for i in range(n):
                keys[r, i] = spare[i]


@compiled
def rank_limits(n: int, lowest: float, reach: float) -> Any:
    """Return the limits (float64, (n,)) that a draw must be below at each rank, and what a kept entry is multiplied by.

    The entry of rank r (0 the smallest) of n is kept with the probability p = lowest + reach * r / (n - 1). The factors
    (float32) are 1 / p, p at least 2**-24, the smallest that a draw can realise.
    """
    limits, factors = np.empty(n, dtype=np.float64), np.empty(n, dtype=np.float32)
    for rank in range(n):
        share = rank / (n - 1) if n > 1 else 0.5
        probability = lowest + reach * share
        limits[rank] = probability * 16777216.0
        factors[rank] = np.float32(1.0 / max(probability, 2.0**-24))
    return limits, factors


@compiled
def mark_by_rank(keys: Any, halves: Any, limits: Any, kept: Any) -> None:
    """Write into `kept` (bool, like `keys`) whether each entry's draw is below the limit of its rank.

    `keys` are those of `rank_rows`; the upper 24 bits of `halves` (uint32, like `keys`) are the draws.
    """
    for r in range(len(keys)):
        for rank in range(keys.shape[1]):
            i = keys[r, rank] & np.uint64(0xFFFFFFFF)
            kept[r, i] = np.float64(halves[r, i] >> np.uint32(8)) < limits[rank]


@compiled
def scale_by_rank(rows: Any, keys: Any, kept: Any, factors: Any) -> None:
    """Multiply each kept entry by the factor (float32) of its rank."""
    for r in range(len(keys)):
        for rank in range(keys.shape[1]):
            i = keys[r, rank] & np.uint64(0xFFFFFFFF)
            rows[r, i] = rows[r, i] * factors[rank] if kept[r, i] else rows[r, i]
