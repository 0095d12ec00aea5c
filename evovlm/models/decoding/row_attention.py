"""One step of attention on a CPU: each row's new token attends to the keys and values in its slot.

torch's attention needs rows of one length, with a mask; here each row reads exactly its own length. Keys are stored
in blocks of `WIDTH` positions, with positions innermost, so that a query's products with a block are a sum of vectors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

WIDTH = 16
"""The number of entries of a vector: those of one register with AVX-512, of two with AVX, of four elsewhere."""
_SUMS = 4
_VECTOR, _INDEX = ir.VectorType(ir.FloatType(), WIDTH), ir.IntType(64)

NO_WINDOW = 0
NO_SOFTCAP = 0.0

# Sums may be reordered, which lets the compiler use vector registers, but infinities and NaN are kept: they reveal
# weights that are not finite.
_FAST = {"reassoc", "contract", "nsz", "arcp"}

# exp as in Cephes' expf: a power of two and a polynomial, within 2 ulp; numba's exp would be a call per number.
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _softmax(scores: Array, bits: npt.NDArray[np.int32], shifts: npt.NDArray[np.int32], n: int) -> np.float32:
    """Turn the first n scores into exp(score - largest) in place and return their sum; `bits` is `scores` as int32."""
    top = scores[0]
    for j in range(n):
        top = max(top, scores[j])
    for j in range(n):
        x = max(scores[j] - top, _LOWEST)
        k = np.floor(x * _LOG2_E + np.float32(0.5))
        r = x - k * _LN2_HIGH
        r = r - k * _LN2_LOW
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        scores[j] = p * r * r + r + np.float32(1.0)
        shifts[j] = np.int32(k) << 23
    for j in range(n):
        bits[j] += shifts[j]
    total = np.float32(0.0)
    for j in range(n):
        total += scores[j]
    return total


def _write_sum(context: Any, builder: Any, signature: Any, given: Any) -> Any:
    """Write the code that the compiler gets for `_add_rows`."""
    weights, first, matrix, start, stride, n, out, to = given

    def entry(place: int, array: Any, number: Any) -> Any:
        return builder.gep(context.make_array(signature.args[place])(context, builder, array).data, [number])

    weight, vector, target = entry(0, weights, first), entry(2, matrix, start), entry(6, out, to)

    def plus(total: Any, number: Any) -> Any:
        """Return a sum with one more weighted vector."""
        one = builder.insert_element(
            ir.Constant(_VECTOR, ir.Undefined), builder.load(builder.gep(weight, [number])), ir.IntType(32)(0)
        )
        each = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
        pointer = builder.gep(vector, [builder.mul(number, stride)])
        entries = builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()))
        entries.align = 4
        return builder.fadd(total, builder.fmul(each, entries, flags=("contract",)), flags=("contract",))

    # Several sums, because each addition waits for the one before it.
    most = builder.sub(n, builder.srem(n, _INDEX(_SUMS)))
    total, *others = _write_loop(builder, plus, _INDEX(0), most, [ir.Constant(_VECTOR, [0.0] * WIDTH)] * _SUMS)
    for other in others:
        total = builder.fadd(total, other)
    (total,) = _write_loop(builder, plus, most, n, [total])
    builder.store(total, builder.bitcast(target, _VECTOR.as_pointer())).align = 4
    return context.get_dummy_value()


def _write_loop(builder: Any, plus: Callable[[Any, Any], Any], begin: Any, end: Any, totals: Sequence[Any]) -> Any:
    """Write a loop that adds the vectors from `begin` to `end` to each of the sums in turn; return the sums."""
    before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.cbranch(builder.icmp_signed("<", begin, end), body, after)
    builder.position_at_end(body)
    number, sums = builder.phi(_INDEX), [builder.phi(_VECTOR) for _ in totals]
    added = [plus(total, builder.add(number, _INDEX(i))) for i, total in enumerate(sums)]
    following = builder.add(number, _INDEX(len(totals)))
    for phi, outside, inside in zip([number, *sums], [begin, *totals], [following, *added], strict=True):
        phi.add_incoming(outside, before)
        phi.add_incoming(inside, body)
    builder.cbranch(builder.icmp_signed("<", following, end), body, after)
    builder.position_at_end(after)
    found = [builder.phi(_VECTOR) for _ in totals]
    for phi, outside, inside in zip(found, totals, added, strict=True):
        phi.add_incoming(outside, before)
        phi.add_incoming(inside, body)
    return found


def _add_rows(
    context: Any, weights: Any, first: Any, matrix: Any, start: Any, stride: Any, n: Any, out: Any, to: Any
) -> Any:
    """Write to `out`, from entry `to` on, the sum of `n` weighted vectors of `WIDTH` entries, which stays in registers.

    Vector i begins at entry `start + i * stride` of `matrix`, and its weight is entry `first + i` of `weights`; all are
    flat float32 arrays. The compiler itself keeps only sums of a known length in registers.
    """
    del context
    return types.void(weights, first, matrix, start, stride, n, out, to), _write_sum


_sum_rows: Any = intrinsic(_add_rows)


@numba.njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def attend_rows(
    queries: Array,
    new_keys: Array,
    new_values: Array,
    keys: Array,
    values: Array,
    slots: Indices,
    lengths: Indices,
    scale: np.float32,
    window: int,
    softcap: np.float32,
    out: Array,
) -> None:
    """Append each row's new key and value to its slot, and write the row's attention output to `out`.

    queries and out (rows, heads, size); new_keys and new_values (rows, key heads, size); keys (slots, key heads,
    blocks, size, WIDTH); values (slots, key heads, blocks * WIDTH, size); all contiguous.
    `lengths` counts the tokens that each slot already holds, those of earlier rows included: a prompt's tokens are rows
    of one slot, in order.
    """
    n_heads, size = queries.shape[1], queries.shape[2]
    n_key_heads, capacity = keys.shape[1], values.shape[2]
    group = n_heads // n_key_heads
    flat_keys, flat_values, flat_out = keys.reshape(-1), values.reshape(-1), out.reshape(-1)
    query = np.empty(size, np.float32)
    scores, shifts = np.empty(capacity, np.float32), np.empty(capacity, np.int32)
    bits = scores.view(np.int32)
    in_vectors = size - size % WIDTH
    for row in range(queries.shape[0]):
        slot, end = slots[row], lengths[row]
        start = max(0, end + 1 - window) if window != NO_WINDOW else 0
        # Scores are computed for whole vectors of positions; those of other positions are not used.
        before = start % WIDTH
        base = start - before
        n = end + 1 - base
        n_scores = -(-n // WIDTH) * WIDTH
        for key_head in range(n_key_heads):
            slot_keys, slot_values = keys[slot, key_head], values[slot, key_head]
            for c in range(size):
                slot_keys[end // WIDTH, c, end % WIDTH] = new_keys[row, key_head, c]
                slot_values[end, c] = new_values[row, key_head, c]
            first = (slot * n_key_heads + key_head) * size * capacity
            for head in range(key_head * group, (key_head + 1) * group):
                result = out[row, head]
                for c in range(size):
                    query[c] = queries[row, head, c] * scale
                for j in range(0, n_scores, WIDTH):
                    _sum_rows(query, 0, flat_keys, first + (base + j) * size, WIDTH, size, scores, j)
                if softcap != NO_SOFTCAP:
                    for j in range(before, n):
                        scores[j] = softcap * np.tanh(scores[j] / softcap)
                scores[:before] = -np.inf
                scores[n:n_scores] = -np.inf
                total = _softmax(scores, bits, shifts, n_scores)
                to = (row * n_heads + head) * size
                for c in range(0, in_vectors, WIDTH):
                    _sum_rows(scores, before, flat_values, first + start * size + c, size, n - before, flat_out, to + c)
                for c in range(in_vectors, size):
                    result[c] = 0.0
                    for j in range(before, n):
                        result[c] += scores[j] * slot_values[base + j, c]
                for c in range(size):
                    result[c] /= total


@numba.njit(nogil=True, cache=True, error_model="numpy")
def rotate(queries: Array, keys: Array, cosines: Array, sines: Array) -> None:
    """Rotate queries and keys by their positions, in place (Su et al. 2021; halves as in transformers' Llama).

    queries (rows, heads, size), keys (rows, key heads, size), cosines and sines (rows, size). Sums are not reordered
    and not fused with products, so that the bits are transformers'.
    """
    half = queries.shape[2] // 2
    for states in (queries, keys):
        for row in range(states.shape[0]):
            cosine, sine = cosines[row], sines[row]
            for head in range(states.shape[1]):
                state = states[row, head]
                for c in range(half):
                    first, second = state[c], state[half + c]
                    state[c] = first * cosine[c] - second * sine[c]
                    state[half + c] = second * cosine[half + c] + first * sine[half + c]
