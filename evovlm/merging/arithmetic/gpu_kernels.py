"""The Triton kernel that computes a combination on a GPU, with the same operations in the same order as on a CPU.

Launch it with `enable_fp_fusion=False`, so that no product is fused into a sum except where the kernel does so. It
computes in float32 and in integers; bfloat16 is handled as its 16 bits, because its conversion differs between devices.

Its arguments are in a table of int64 in device memory, `HEADER` numbers and then `FIELDS` for each term, so that
another recipe, tensor or address needs no new compilation. float32 numbers and 64-bit keys are stored as their bits.
"""

from typing import Any

import triton
import triton.language as tl

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

BLOCK = 1024
"""Number of entries per program; a multiple of the 8 that share a block of draws."""
N_WARPS = BLOCK // 8 // 32
"""Chosen so that each thread has the 8 entries of one block of draws."""

BFLOAT16: Any = tl.constexpr(0)
FLOAT16: Any = tl.constexpr(1)
FLOAT32: Any = tl.constexpr(2)

KEEP_ALL: Any = tl.constexpr(0)
KEEP_DRAWN: Any = tl.constexpr(1)
KEEP_BETWEEN: Any = tl.constexpr(2)

PLAIN: Any = tl.constexpr(0)
FUSED: Any = tl.constexpr(1)
ELECTED: Any = tl.constexpr(2)
ELECTED_MEAN: Any = tl.constexpr(3)
"""Elected, and divided by the sum of the weights of the entries that count."""

# Index of each number in the table; `OUT`, `BASE` and `SOURCE` are addresses of the entry `FIRST`.
OUT: Any = tl.constexpr(0)
FLAG: Any = tl.constexpr(1)
"""Address of an int32 that becomes 1 when an entry of the result is not finite."""
FIRST: Any = tl.constexpr(2)
"""The index in the result of the first program's first entry, a multiple of 8."""
SKIPPED: Any = tl.constexpr(3)
"""Number of entries from there on that do not belong to this run."""
STOP: Any = tl.constexpr(4)
"""Index of the entry after the last, relative to `FIRST`."""
BASE: Any = tl.constexpr(5)
DIVISOR: Any = tl.constexpr(6)
LAMBDA: Any = tl.constexpr(7)
LEAST: Any = tl.constexpr(8)
ROW_LENGTH: Any = tl.constexpr(9)
HEADER: Any = tl.constexpr(10)

SOURCE: Any = tl.constexpr(0)
FIRST_FACTOR: Any = tl.constexpr(1)
SECOND_FACTOR: Any = tl.constexpr(2)
KEY: Any = tl.constexpr(3)
LIMIT: Any = tl.constexpr(4)
LOW: Any = tl.constexpr(5)
LOW_LAST: Any = tl.constexpr(6)
HIGH: Any = tl.constexpr(7)
HIGH_LAST: Any = tl.constexpr(8)
MIX_WEIGHT: Any = tl.constexpr(9)
DIVISOR_WEIGHT: Any = tl.constexpr(10)
ROW_FACTORS: Any = tl.constexpr(11)
"""Address of the factors (float32), one per row of the result."""
FIELDS: Any = tl.constexpr(12)


@triton.jit
def _float(place):
    return tl.load(place).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _pointer(address, element: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = address.to(tl.pointer_type(element))
    if ALIGNED:
        # The compiler knows nothing about an address from a table, and it fetches unaligned entries one at a time.
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _widened(address, local, inside, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    if DTYPE == BFLOAT16:
        raw = tl.load(_pointer(address, tl.uint16, ALIGNED) + local, mask=inside, other=0)
        value = (raw.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif DTYPE == FLOAT16:
        value = tl.load(_pointer(address, tl.float16, ALIGNED) + local, mask=inside, other=0.0).to(tl.float32)
    else:
        value = tl.load(_pointer(address, tl.float32, ALIGNED) + local, mask=inside, other=0.0)
    return value


@triton.jit
def _rounded(value, DTYPE: tl.constexpr):
    """Return float32 numbers rounded to what the dtype holds: to the nearest, ties to even."""
    if DTYPE == BFLOAT16:
        word = value.to(tl.uint32, bitcast=True)
        nearest = (word + 0x7FFF + ((word >> 16) & 1)) & 0xFFFF0000
        nan = (word & 0x7FFFFFFF) > 0x7F800000
        value = tl.where(nan, tl.full(word.shape, 0x7FC00000, tl.uint32), nearest).to(tl.float32, bitcast=True)
    elif DTYPE == FLOAT16:
        value = value.to(tl.float16).to(tl.float32)
    return value


@triton.jit
def _store(address, local, inside, value, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    if DTYPE == BFLOAT16:
        word = _rounded(value, DTYPE).to(tl.uint32, bitcast=True)
        tl.store(_pointer(address, tl.uint16, ALIGNED) + local, (word >> 16).to(tl.uint16), mask=inside)
    elif DTYPE == FLOAT16:
        tl.store(_pointer(address, tl.float16, ALIGNED) + local, value.to(tl.float16), mask=inside)
    else:
        tl.store(_pointer(address, tl.float32, ALIGNED) + local, value, mask=inside)


@triton.jit
def _draws(key, counters):
    """Return the 24-bit draws of eight entries for each counter: the words of Philox-4x64-10, low halves first."""
    x0 = counters
    x1 = tl.zeros_like(counters)
    x2 = tl.zeros_like(counters)
    x3 = tl.zeros_like(counters)
    second_key = tl.zeros_like(key)
    for _ in tl.static_range(10):
        high0 = tl.umulhi(x0, tl.full(x0.shape, 0xD2E7470EE14C6C93, tl.uint64))
        low0 = x0 * 0xD2E7470EE14C6C93
        high1 = tl.umulhi(x2, tl.full(x2.shape, 0xCA5A826395121157, tl.uint64))
        low1 = x2 * 0xCA5A826395121157
        x0 = high1 ^ x1 ^ key
        x1 = low1
        x2 = high0 ^ x3 ^ second_key
        x3 = low0
        key = key + 0x9E3779B97F4A7C15
        second_key = second_key + 0xBB67AE8584CAA73B
    # `join` appends the fastest axis: word 2 i + j of a counter is at [i, j].
    words = tl.join(tl.join(x0, x2), tl.join(x1, x3))
    halves = tl.join(words.to(tl.uint32), (words >> 32).to(tl.uint32))
    return tl.reshape(halves, (8 * counters.shape[0],)) >> 8


@triton.jit
def _kept_between(part, term, index):
    magnitude = part.to(tl.uint32, bitcast=True) & 0x7FFFFFFF
    low = tl.load(term + LOW).to(tl.uint32)
    high = tl.load(term + HIGH).to(tl.uint32)
    above = (magnitude > low) | ((magnitude == low) & (index <= tl.load(term + LOW_LAST)))
    below = (magnitude < high) | ((magnitude == high) & (index > tl.load(term + HIGH_LAST)))
    return above & below


@triton.jit
def combine_entries(
    table,
    DTYPES: tl.constexpr,
    STORED: tl.constexpr,
    PARAMETER: tl.constexpr,
    HAS_BASE: tl.constexpr,
    KEEP: tl.constexpr,
    JOIN: tl.constexpr,
    HAS_ROW_FACTORS: tl.constexpr,
    DIVIDED: tl.constexpr,
    ALIGNED: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Compute `SIZE` entries of a tensor.

    `DTYPES` are those of the base (any, without a base) and of each term's source; the result is rounded to `STORED`
    before it is written to a parameter of the dtype `PARAMETER`. `ALIGNED` says that no entry is skipped, their number
    is a multiple of 8, and all addresses are multiples of 16 bytes.
    """
    local = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    stop = tl.load(table + STOP)
    if ALIGNED:
        inside = local < tl.multiple_of(stop, 8)
    else:
        inside = (local >= tl.load(table + SKIPPED)) & (local < stop)
    index = tl.load(table + FIRST) + local
    mix = tl.zeros((SIZE,), dtype=tl.float32)
    if HAS_BASE:
        base = _widened(tl.load(table + BASE), local, inside, DTYPES[0], ALIGNED)
    else:
        base = mix
    # Sums for both possible signs, so that each part is needed only once.
    mix_plus = mix
    mix_minus = mix
    by_plus = mix
    by_minus = mix
    all_plus = mix
    all_minus = mix
    for k in tl.static_range(len(DTYPES) - 1):
        term = table + HEADER + k * FIELDS
        part = _widened(tl.load(term + SOURCE), local, inside, DTYPES[k + 1], ALIGNED)
        if HAS_BASE:
            part = part - base
        if JOIN == FUSED:
            mix = tl.fma(part, _float(term + FIRST_FACTOR), mix)
        else:
            scaled = part * _float(term + FIRST_FACTOR) * _float(term + SECOND_FACTOR)
            if KEEP == KEEP_DRAWN:
                counters = tl.load(table + FIRST) // 8 + 1 + tl.program_id(0).to(tl.int64) * (SIZE // 8)
                counters = (counters + tl.arange(0, SIZE // 8)).to(tl.uint64)
                draws = _draws(tl.load(term + KEY).to(tl.uint64, bitcast=True), counters)
                scaled = tl.where(draws < tl.load(term + LIMIT).to(tl.uint32), scaled, 0.0)
            elif KEEP == KEEP_BETWEEN:
                scaled = tl.where(_kept_between(part, term, index), scaled, 0.0)
            if HAS_ROW_FACTORS:
                factors = tl.load(term + ROW_FACTORS).to(tl.pointer_type(tl.float32))
                scaled = scaled * tl.load(factors + index // tl.load(table + ROW_LENGTH), mask=inside, other=0.0)
            if JOIN == PLAIN and k == 0:
                # Not added to 0, because that would turn -0 into +0.
                mix = scaled
            else:
                mix = mix + scaled
            if JOIN == ELECTED or JOIN == ELECTED_MEAN:
                weight = _float(term + MIX_WEIGHT)
                mix_plus = mix_plus + tl.where(scaled > 0, scaled, 0.0) * weight
                mix_minus = mix_minus + tl.where(scaled < 0, -scaled, 0.0) * weight
            if JOIN == ELECTED_MEAN:
                weight = _float(term + DIVISOR_WEIGHT)
                counted_plus = tl.where(scaled > 0, weight, 0.0)
                counted_minus = tl.where(scaled < 0, weight, 0.0)
                by_plus = by_plus + counted_plus
                by_minus = by_minus + counted_minus
                all_plus = all_plus + tl.abs(counted_plus)
                all_minus = all_minus + tl.abs(counted_minus)
    if JOIN == ELECTED or JOIN == ELECTED_MEAN:
        # Both comparisons are false for NaN, which so reaches the mix.
        sign = tl.where(mix >= 0, 1.0, tl.where(mix < 0, -1.0, mix))
        plus = mix >= 0
        mix = tl.where(plus, mix_plus, mix_minus)
        if JOIN == ELECTED_MEAN:
            divisor = tl.where(plus, by_plus, by_minus)
            absolute = tl.where(plus, all_plus, all_minus)
            guarded = tl.maximum(tl.abs(divisor), absolute * _float(table + LEAST))
            by = tl.where(divisor >= 0, guarded, -guarded)
            mix = tl.div_rn(mix, tl.where(by != 0, by, 1.0))
        mix = mix * sign
    if DIVIDED:
        mix = tl.div_rn(mix, _float(table + DIVISOR))
    mix = mix * _float(table + LAMBDA)
    if HAS_BASE:
        # Without terms the base is kept as it is, so that -0 stays -0.
        mix = base + mix if len(DTYPES) > 1 else base
    mix = _rounded(mix, STORED)
    finite = (mix.to(tl.uint32, bitcast=True) & 0x7FFFFFFF) < 0x7F800000
    flag = tl.load(table + FLAG).to(tl.pointer_type(tl.int32))
    # All programs that write to the flag write the same value.
    tl.store(flag + tl.zeros_like(local), tl.full((SIZE,), 1, tl.int32), mask=inside & (finite == 0))
    _store(tl.load(table + OUT), local, inside, mix, PARAMETER, ALIGNED)
