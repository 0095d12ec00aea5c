"""Compiled inner products of float32 vectors, summed in float64 in an order that is the same on any machine.

Entry i of a vector is added to lane i mod 8, and the eight lanes are then added one after another. A product of two
float32 numbers is exact in float64, so each addition is the only rounding.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from evovlm.merging.arithmetic.kernels import compiled, widen_one
from evovlm.merging.arithmetic.mark_kernels import STEP, widen_less

_LANES = 8
# numba is not typed.
_build: Any = cgutils


def _products_of_eights(typingctx: Any, left: Any, right: Any, lanes: Any) -> Any:  # noqa: ARG001 (numba's signature)
    types: Any = numba.types
    if any(each.layout != "C" for each in (left, right, lanes)):
        raise TypeError("inner products need contiguous vectors")

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        """Keep the eight lanes in a register: as entries of an array, LLVM stores and loads them at every step."""
        floats, doubles = (ir.VectorType(kind, _LANES) for kind in (ir.FloatType(), ir.DoubleType()))
        x, y, sums = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        place = builder.bitcast(sums.data, doubles.as_pointer())
        total = _build.alloca_once_value(builder, builder.load(place, align=8))
        n_eights = builder.udiv(builder.extract_value(x.shape, 0), context.get_constant(types.intp, _LANES))
        with _build.for_range(builder, n_eights) as loop:
            first = builder.mul(loop.index, context.get_constant(types.intp, _LANES))
            one, other = (
                builder.fpext(
                    builder.load(builder.bitcast(builder.gep(each.data, [first]), floats.as_pointer()), align=4),
                    doubles,
                )
                for each in (x, y)
            )
            builder.store(builder.fadd(builder.load(total), builder.fmul(one, other)), total)
        builder.store(builder.load(total), place, align=8)
        return context.get_dummy_value()

    return types.void(left, right, lanes), codegen


_add_products_of_eights: Any = intrinsic(_products_of_eights)
"""Adds the products of contiguous float32 vectors, but for the last n mod 8 entries, to `lanes` (float64, (8,))."""


@compiled
def _add_products(left: Any, right: Any, lanes: Any) -> None:
    """Add the products of two float32 vectors to `lanes` (float64, (8,)), entry i to lane i mod 8."""
    n = len(left)
    _add_products_of_eights(left, right, lanes)
    whole = n - n % _LANES
    for i in range(whole, n):
        lanes[i - whole] += np.float64(left[i]) * np.float64(right[i])


@compiled
def _sum_lanes(lanes: Any) -> float:
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    return total


@compiled
def dot(left: Any, right: Any) -> float:
    """Return the inner product of two contiguous float32 vectors."""
    lanes = np.zeros(_LANES, dtype=np.float64)
    _add_products(left, right, lanes)
    return _sum_lanes(lanes)


@compiled
def inner_products(raws: Any, raw_base: Any, length: int, products: Any) -> None:
    """Add the inner products of each two parts to `products` (float64, (n / length, k, k)), for each `length` entries.

    `raws` (k, n) and `raw_base` (n,) are as in `combine_entries`; every entry is read once.
    """
    k, n = raws.shape
    base, parts = np.empty(STEP, dtype=np.float32), np.empty((k, STEP), dtype=np.float32)
    lanes = np.zeros((k, k, _LANES), dtype=np.float64)
    for group in range(n // length):
        lanes[:] = 0.0
        for begin in range(group * length, (group + 1) * length, STEP):
            size = min(STEP, (group + 1) * length - begin)
            of_base = base[: min(size, len(raw_base))]
            widen_one(raw_base[begin : begin + size], of_base)
            for s in range(k):
                widen_less(raws[s, begin : begin + size], of_base, parts[s, :size])
            for i in range(k):
                for j in range(i, k):
                    _add_products(parts[i, :size], parts[j, :size], lanes[i, j])
        for i in range(k):
            for j in range(i, k):
                products[group, i, j] += _sum_lanes(lanes[i, j])
                products[group, j, i] = products[group, i, j]
