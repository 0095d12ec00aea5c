"""One step of attention on a CPU: each row's new token attends to the keys and values in its slot.

torch's attention needs rows of one length, with a mask; here each row reads exactly its own length. Keys are stored
with positions innermost, so that a query's products with all of them are plain vector sums.
"""

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

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
        shifts[j] = np.int32(k)
    for j in range(n):
        bits[j] += shifts[j] << 23
    total = np.float32(0.0)
    for j in range(n):
        total += scores[j]
    return total


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

    queries and out (rows, heads, size); new_keys and new_values (rows, key heads, size); keys (slots, key heads, size,
    capacity); values (slots, key heads, capacity, size). `lengths` counts the tokens that each slot already holds.
    """
    n_heads, size = queries.shape[1], queries.shape[2]
    n_key_heads = keys.shape[1]
    group = n_heads // n_key_heads
    scores = np.empty(keys.shape[3], np.float32)
    bits = scores.view(np.int32)
    shifts = np.empty(keys.shape[3], np.int32)
    for row in range(queries.shape[0]):
        slot, end = slots[row], lengths[row]
        start = max(0, end + 1 - window) if window != NO_WINDOW else 0
        n = end + 1 - start
        for key_head in range(n_key_heads):
            slot_keys, slot_values = keys[slot, key_head], values[slot, key_head]
            for c in range(size):
                slot_keys[c, end] = new_keys[row, key_head, c]
                slot_values[end, c] = new_values[row, key_head, c]
            for head in range(key_head * group, (key_head + 1) * group):
                query, result = queries[row, head], out[row, head]
                for j in range(n):
                    scores[j] = 0.0
                for c in range(size):
                    x, row_keys = query[c] * scale, slot_keys[c, start:]
                    for j in range(n):
                        scores[j] += x * row_keys[j]
                if softcap != NO_SOFTCAP:
                    for j in range(n):
                        scores[j] = softcap * np.tanh(scores[j] / softcap)
                total = _softmax(scores, bits, shifts, n)
                for c in range(size):
                    result[c] = 0.0
                for j in range(n):
                    p, value = scores[j], slot_values[start + j]
                    for c in range(size):
                        result[c] += p * value[c]
                for c in range(size):
                    result[c] /= total
