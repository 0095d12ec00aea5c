"""Inner loops compiled by numba; each works on a few ten thousand entries that fit into the cache.

Float arithmetic is in float32, rounded once per operation: nothing here is compiled with `fastmath`, so no
multiplication is fused into an addition and no sum is reordered, and a result does not depend on the processor.
Compiled code is cached on disk after its first use.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Return the function compiled for the types of its arguments; it releases the interpreter's lock."""
    compiler: Any = numba.njit
    try:
        fast: _Function = compiler(nogil=True, cache=True)(function)
    except RuntimeError:
        # No folder for compiled code is writable, neither beside this file nor in the home folder.
        fast = compiler(nogil=True)(function)
    return fast


def _wide_product(typingctx: Any, left: Any, right: Any) -> Any:  # noqa: ARG001 (numba's signature)
    types: Any = numba.types
    signature = types.UniTuple(types.uint64, 2)(types.uint64, types.uint64)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        upper = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return context.make_tuple(builder, signature.return_type, [upper, builder.trunc(product, word)])

    return signature, codegen


_multiply_wide: Any = intrinsic(_wide_product)
"""Returns the upper and the lower 64 bits of the product of two 64-bit numbers."""


def _fused(typingctx: Any, left: Any, right: Any, addend: Any) -> Any:  # noqa: ARG001 (numba's signature)
    types: Any = numba.types
    signature = types.float32(types.float32, types.float32, types.float32)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.fma(*arguments)

    return signature, codegen


multiply_add: Any = intrinsic(_fused)
"""Returns left * right + addend, rounded once."""


@compiled
def _round(x0: Any, x1: Any, x2: Any, x3: Any, keys: Any) -> Any:
    high0, low0 = _multiply_wide(np.uint64(0xD2E7470EE14C6C93), x0)
    high1, low1 = _multiply_wide(np.uint64(0xCA5A826395121157), x2)
    return high1 ^ x1 ^ keys[0], low1, high0 ^ x3 ^ keys[1], low0


@compiled
def philox(key: Any, counter: int, words: Any) -> None:
    """Write the output of Philox-4x64-10 (Salmon et al. 2011): four words for each counter, starting at `counter`.

    The key is (`key`, 0); `words` is uint64, (4 n,).
    """
    # The keys of the rounds, Weyl sequences; as locals, because the loop would read an array again for every block.
    a, b = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
    k0 = (np.uint64(key), np.uint64(0))
    k1 = (k0[0] + a, b)
    k2 = (k1[0] + a, k1[1] + b)
    k3 = (k2[0] + a, k2[1] + b)
    k4 = (k3[0] + a, k3[1] + b)
    k5 = (k4[0] + a, k4[1] + b)
    k6 = (k5[0] + a, k5[1] + b)
    k7 = (k6[0] + a, k6[1] + b)
    k8 = (k7[0] + a, k7[1] + b)
    k9 = (k8[0] + a, k8[1] + b)
    for block in range(len(words) // 4):
        x0, x1, x2, x3 = np.uint64(counter + block), np.uint64(0), np.uint64(0), np.uint64(0)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k0)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k1)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k2)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k3)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k4)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k5)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k6)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k7)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k8)
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k9)
        words[4 * block] = x0
        words[4 * block + 1] = x1
        words[4 * block + 2] = x2
        words[4 * block + 3] = x3


@compiled
def draw_halves(key: Any, start: int, size: int, words: Any) -> Any:
    """Return 32-bit numbers, in `words`, whose upper 24 bits are the draws of entries start .. start + size - 1."""
    skipped = start % 8
    blocks = (skipped + size + 7) // 8
    philox(key, start // 8 + 1, words[: 4 * blocks])
    return words.view(np.uint32)[skipped : skipped + size]


@compiled
def scale_between(
    vector: Any, start: int, low: Any, low_index: int, high: Any, high_index: int, first: Any, second: Any
) -> None:
    """Multiply the entries between two cuts by two factors in turn; the others become 0.

    Entries are ordered by the bits of their magnitude (uint32); of equal ones, the smaller index counts as larger.
    Those at or above the cut (`low`, `low_index`) and below the cut (`high`, `high_index`) are kept. `start` is the
    index of the first entry.
    """
    bits = vector.view(np.uint32)
    for i in range(len(vector)):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        index = start + i
        above = magnitude > low or (magnitude == low and index <= low_index)
        below = magnitude < high or (magnitude == high and index > high_index)
        vector[i] = vector[i] * first * second if above and below else np.float32(0)


@compiled
def scale_near(vector: Any, reach: Any, first: Any, second: Any) -> None:
    """Multiply each entry by min(1, reach / its magnitude, at least 1e-6), then by two float32 factors in turn."""
    for i in range(len(vector)):
        share = min(max(reach / max(abs(vector[i]), np.float32(1e-6)), np.float32(0)), np.float32(1))
        vector[i] = vector[i] * share * first * second


@compiled
def scale_important(
    vector: Any, start: int, row_factors: Any, row_length: int, threshold: Any, first: Any, second: Any
) -> None:
    """Multiply the entries whose magnitude times their row's factor reaches a threshold by two factors in turn.

    The others become 0. `start` is the index of the first entry.
    """
    for i in range(len(vector)):
        kept = abs(vector[i]) * row_factors[(start + i) // row_length] >= threshold
        vector[i] = vector[i] * first * second if kept else np.float32(0)


@compiled
def share_changes(parts: Any, threshold: Any) -> None:
    """Divide each entry (float32, (k, n)) by the number of parts whose magnitude there is above the threshold.

    Those up to the threshold become 0.
    """
    k, n = parts.shape
    for i in range(n):
        count = 0
        for s in range(k):
            count += 1 if abs(parts[s, i]) > threshold else 0
        by = np.float32(max(count, 1))
        for s in range(k):
            parts[s, i] = parts[s, i] / by if abs(parts[s, i]) > threshold else np.float32(0)


@compiled
def divergence(base: Any, part: Any) -> float:
    """Return KL(softmax(base + part) || softmax(base)) of a row, at least 0; each probability has 1e-8 added."""
    n = len(base)
    most, most_base = -np.inf, -np.inf
    for i in range(n):
        most_base = max(most_base, np.float64(base[i]))
        most = max(most, np.float64(base[i]) + np.float64(part[i]))
    total, total_base = 0.0, 0.0
    for i in range(n):
        total_base += math.exp(np.float64(base[i]) - most_base)
        total += math.exp(np.float64(base[i]) + np.float64(part[i]) - most)
    found = 0.0
    for i in range(n):
        p = math.exp(np.float64(base[i]) + np.float64(part[i]) - most) / total + 1e-8
        q = math.exp(np.float64(base[i]) - most_base) / total_base + 1e-8
        found += p * math.log(p / q)
    return max(found, 0.0)


@compiled
def keep_between(values: Any, start: int, low: Any, low_index: int, kept: Any) -> None:
    """Write into `kept` (bool) whether each value (float32, not negative) is not below the cut."""
    bits = values.view(np.uint32)
    for i in range(len(values)):
        kept[i] = bits[i] > low or (bits[i] == low and start + i <= low_index)


@compiled
def widen_bfloat16(raw: Any, out: Any) -> None:
    """Write bfloat16 numbers (uint16, as stored) into `out` as float32."""
    bits = out.view(np.uint32)
    for i in range(len(raw)):
        bits[i] = np.uint32(raw[i]) << np.uint32(16)


@compiled
def narrow_bfloat16(vector: Any, out: Any) -> None:
    """Write float32 numbers into `out` as bfloat16 (uint16), rounded to the nearest, ties to even; NaN as 0x7FC0."""
    bits = vector.view(np.uint32)
    for i in range(len(vector)):
        word = bits[i]
        rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        nan = (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16(0x7FC0) if nan else np.uint16(rounded)


@compiled
def widen_one(raw: Any, out: Any) -> None:
    """Write bfloat16 (uint16) or float32 numbers into `out` as float32."""
    if raw.itemsize == 2:
        widen_bfloat16(raw, out)
    else:
        for i in range(len(raw)):
            out[i] = raw[i]


@compiled
def narrow_one(vector: Any, out: Any) -> None:
    """Write float32 numbers into `out`, as bfloat16 if its dtype is uint16."""
    if out.itemsize == 2:
        narrow_bfloat16(vector, out)
    else:
        for i in range(len(vector)):
            out[i] = vector[i]


@compiled
def is_finite(raw: Any) -> Any:
    """Whether every number (float32, or bfloat16 as uint16) is finite."""
    largest: Any = 0
    if raw.itemsize == 2:
        words = raw.view(np.uint16)
        for i in range(len(words)):
            largest = max(largest, np.int64(words[i] & np.uint16(0x7FFF)))
        return largest < 0x7F80
    bits = raw.view(np.uint32)
    for i in range(len(bits)):
        largest = max(largest, np.int64(bits[i] & np.uint32(0x7FFFFFFF)))
    return largest < 0x7F800000


@compiled
def count_magnitudes(vector: Any, counts: Any) -> None:
    """Add the entries to `counts` (int64, (32768,)), by the upper 16 bits of their magnitude."""
    bits = vector.view(np.uint32)
    for i in range(len(vector)):
        counts[(bits[i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@compiled
def collect_magnitudes(vector: Any, start: int, upper: int, keys: Any, filled: int) -> int:
    """Append the entries whose magnitude has these upper 16 bits to `keys` (uint64); return the new number of keys.

    Keys sort larger magnitudes first, and equal ones by index: bits 40 and up are the complement of the
    magnitude's lower 16 bits, those below are the index.
    """
    bits = vector.view(np.uint32)
    wanted = np.uint32(upper)
    for i in range(len(vector)):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        if magnitude >> np.uint32(16) == wanted:
            complement = np.uint64(0xFFFF) - np.uint64(magnitude & np.uint32(0xFFFF))
            keys[filled] = (complement << np.uint64(40)) | np.uint64(start + i)
            filled += 1
    return filled


@compiled
def variances(parts: Any, out: Any) -> None:
    """Write the variance of each entry across the parts (float32, (k, n); divided by k) into `out` (float32, (n,))."""
    k, n = parts.shape
    # Part by part in steps that stay in the cache, so that many entries are computed at a time.
    means, squares = np.empty(1024, dtype=np.float64), np.empty(1024, dtype=np.float64)
    for begin in range(0, n, 1024):
        size = min(1024, n - begin)
        for i in range(size):
            means[i] = 0.0
            squares[i] = 0.0
        for s in range(k):
            part = parts[s, begin : begin + size]
            for i in range(size):
                means[i] += np.float64(part[i])
        for i in range(size):
            means[i] = means[i] / k
        for s in range(k):
            part = parts[s, begin : begin + size]
            for i in range(size):
                difference = np.float64(part[i]) - means[i]
                squares[i] += difference * difference
        for i in range(size):
            out[begin + i] = np.float32(squares[i] / k)


@compiled
def add_low_rank(values: Any, first: int, columns: int, left: Any, right: Any, scale: Any) -> None:
    """Add `scale` times the entries from `first` on of left @ right (row-major, `columns` to a row) to `values`.

    `left` is float32, (rows, rank), `right` float32, (rank, columns). Each entry is summed in float32 over the ranks in
    their order, whatever part of the matrix is asked for.
    """
    n, done = len(values), 0
    sums = np.empty(columns, dtype=np.float32)
    while done < n:
        row, start = (first + done) // columns, (first + done) % columns
        width = min(columns - start, n - done)
        for j in range(width):
            sums[j] = np.float32(0)
        for k in range(left.shape[1]):
            factor = left[row, k]
            for j in range(width):
                sums[j] += factor * right[k, start + j]
        for j in range(width):
            values[done + j] += scale * sums[j]
        done += width


@compiled
def scale_rows_to(values: Any, columns: int, lengths: Any) -> None:
    """Scale each whole row of `values` (float32, (rows * columns,)) to its entry of `lengths` (float32, (rows,))."""
    for row in range(len(lengths)):
        total = 0.0
        for j in range(columns):
            value = np.float64(values[row * columns + j])
            total += value * value
        factor = lengths[row] / np.float32(np.sqrt(total)) if total > 0 else np.float32(np.nan)
        for j in range(columns):
            values[row * columns + j] *= factor
