"""Which entries are drawn, which are the largest, and how numbers are stored."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.merging.arithmetic.buffers import MemoryBudget, narrow, widen
from evovlm.merging.arithmetic.product_kernels import dot, inner_products
from evovlm.merging.arithmetic.selection import (
    ALL,
    NOTHING,
    Cut,
    Entries,
    MagnitudeOrder,
    MagnitudesOnCpu,
    draw_key,
    draw_limit,
    draws,
    kept_count,
)
from tests.reference.merging import largest_first
from tests.reference.philox import draw24

KEYS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63, 2**64 - 1]))
FAR = st.one_of(st.integers(0, 300), st.integers(0, 2**36))

# The draw.


def test_the_draw_is_frozen() -> None:
    # Published recipes rely on these numbers: they never change.
    assert draws(0x0123456789ABCDEF, start=0, size=10).tolist() == [
        *(5546169, 14348477, 16371218, 3674685, 260779, 2543506, 4330182, 1844287, 2273469, 11673424)
    ]
    key = draw_key(42, "math", "model.embed_tokens.weight")
    assert key == 18355472297531911936
    assert draws(key, start=0, size=10).tolist() == [
        *(15766161, 9874868, 14048800, 11556949, 4814890, 8434324, 11947301, 11973920, 3316050, 6703430)
    ]
    assert draws(key, start=1_000_003, size=4).tolist() == [442349, 1822634, 130076, 16214437]
    assert draws(key, start=(1 << 33) + 5, size=3).tolist() == [4381432, 14948778, 4570442]
    other = draw_key(42, "ja", "model.layers.0.mlp.up_proj.weight")
    assert other == 5872397715162533588
    assert draws(other, start=0, size=6).tolist() == [7620657, 15434248, 12241967, 8084429, 15890500, 13869621]


@settings(deadline=None, max_examples=50)
@given(key=KEYS, start=FAR, size=st.integers(0, 40))
def test_the_draw_is_philox_as_published(key: int, start: int, size: int) -> None:
    assert draws(key, start=start, size=size).tolist() == [draw24(key, start + index) for index in range(size)]


@settings(deadline=None, max_examples=50)
@given(key=KEYS, block=st.integers(0, 2**33))
def test_the_draw_is_numpys_philox(key: int, block: int) -> None:
    words = np.random.Philox(key=key, counter=block).random_raw(20)
    halves = np.array(words, dtype="<u8").view("<u4")
    assert draws(key, start=8 * block, size=40).tolist() == (halves >> 8).tolist()


@settings(deadline=None)
@given(start=st.integers(0, 200), size=st.integers(0, 100))
def test_where_a_draw_is_entered_makes_no_difference(start: int, size: int) -> None:
    whole = draws(7, start=0, size=300)
    assert draws(7, start=start, size=size).tolist() == whole[start : start + size].tolist()


def test_seed_source_and_tensor_each_change_the_draw() -> None:
    keys = [draw_key(*parts) for parts in ((1, "a", "t"), (2, "a", "t"), (1, "b", "t"), (1, "a", "u"), (1, "at", ""))]
    assert len({tuple(draws(key, start=0, size=8).tolist()) for key in keys}) == 5


def test_the_share_kept_is_the_density_and_neighbours_are_independent() -> None:
    drawn = draws(draw_key(3, "a", "t"), start=0, size=1_000_000)
    for density in (0.1, 0.5, 0.9):
        kept = drawn < draw_limit(density)
        assert abs(float(kept.mean()) - density) < 4 * (density * (1 - density) / len(drawn)) ** 0.5
        assert abs(float((kept[1:] & kept[:-1]).mean()) - density**2) < 0.003


@given(density=st.floats(0, 1), draw=st.integers(0, ALL - 1))
def test_a_draw_is_below_the_limit_just_where_its_uniform_number_is_below_the_density(
    density: float, draw: int
) -> None:
    for each in (draw, max(draw_limit(density) - 1, 0), min(draw_limit(density), ALL - 1)):
        assert (each < draw_limit(density)) == (each / 2**24 < density)


def test_the_limits_of_density_keep_nothing_and_all() -> None:
    assert draw_limit(0.0) == 0
    assert draw_limit(1.0) == ALL
    assert draw_limit(5e-324) == 1


# The order by magnitude.


def order_of(vector: npt.NDArray[np.float32], *, piece: int = 7) -> MagnitudeOrder:
    """Return the order of a vector that is read in pieces."""
    starts = range(0, len(vector), piece)
    return MagnitudeOrder(
        MagnitudesOnCpu(lambda: (Entries(start, vector[start : start + piece].copy()) for start in starts))
    )


def up_to(cut: Cut, vector: npt.NDArray[np.float32]) -> list[int]:
    """Return the indices of what a cut keeps."""
    bits = (vector.view(np.uint32) & 0x7FFFFFFF).tolist()
    return [i for i, each in enumerate(bits) if each > cut.bits or (each == cut.bits and i <= cut.last)]


SMALLEST = 2.0**-149
VECTORS = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=60),
    # Ties, and zeros of both signs.
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0]), max_size=60),
    # Below the smallest normal number, and the zeros beside them.
    st.lists(st.sampled_from([0.0, -0.0, SMALLEST, -SMALLEST, 2 * SMALLEST, 70000 * SMALLEST, 2.0**-126]), max_size=60),
    # Differences below the 16th bit, within one bin.
    st.lists(st.integers(-200, 200).map(lambda step: 1 + step * 2.0**-23), max_size=60),
).map(lambda numbers: np.array(numbers, dtype=np.float32))


@settings(deadline=None, max_examples=200)
@given(vector=VECTORS, shares=st.lists(st.floats(0, 1), min_size=1, max_size=4), piece=st.integers(1, 70))
def test_a_cut_keeps_what_a_stable_sort_puts_first(
    vector: npt.NDArray[np.float32], shares: list[float], piece: int
) -> None:
    order = order_of(vector, piece=piece)
    ranked = np.argsort(-np.abs(vector), kind="stable")
    assert ranked.tolist() == largest_first(vector.tolist())
    # Of one order, as many cuts as are asked for.
    for share in shares:
        count = int(share * len(vector))
        assert up_to(order.cut(count), vector) == sorted(ranked[:count].tolist())


@settings(deadline=None, max_examples=200)
@given(vector=VECTORS, piece=st.integers(1, 70))
def test_what_is_not_zero_is_counted(vector: npt.NDArray[np.float32], piece: int) -> None:
    assert order_of(vector, piece=piece).count_nonzero() == np.count_nonzero(vector)


def test_a_cut_of_many_entries_is_a_stable_sorts() -> None:
    vector = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    vector[::3] = 0
    vector[1::7] = vector[1]
    order = order_of(vector, piece=1 << 12)
    ranked = np.argsort(-np.abs(vector), kind="stable")
    for count in (1, 1000, 50_000, 66_666, 66_667, 99_999, 100_000):
        kept = np.zeros(len(vector), dtype=np.bool_)
        kept[ranked[:count]] = True
        assert up_to(order.cut(count), vector) == np.flatnonzero(kept).tolist()
    assert order.count_nonzero() == np.count_nonzero(vector)


def test_a_cut_of_nothing_keeps_nothing() -> None:
    vector = np.array([np.inf, 1.0, 0.0], dtype=np.float32)
    assert order_of(vector).cut(0) == NOTHING
    assert up_to(NOTHING, vector) == []


@pytest.mark.parametrize("size", [0, 3])
def test_a_cut_after_more_entries_than_there_are_is_an_error(size: int) -> None:
    with pytest.raises(ValueError, match=f"a cut after {size + 1} of {size} entries"):
        order_of(np.ones(size, dtype=np.float32)).cut(size + 1)


def test_a_count_is_at_least_one() -> None:
    assert [kept_count(density, 10) for density in (1e-9, 0.19, 0.2, 0.99)] == [1, 1, 2, 9]


# bfloat16.


def narrowed(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    out = np.empty(len(bits), dtype=np.uint16)
    narrow(bits.view(np.float32), out)
    return out


# A half below, at and above; the first and the last pattern of the lower half.
@pytest.mark.parametrize("lower", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_numbers_are_narrowed_to_bfloat16_as_torch_does(lower: int) -> None:
    bits = (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)) | np.uint32(lower)
    vector = bits.view(np.float32)
    wanted = torch.from_numpy(vector.copy()).bfloat16()
    ours = torch.from_numpy(narrowed(bits).view(np.int16)).view(torch.bfloat16)
    nan = np.isnan(vector)
    assert torch.equal(torch.from_numpy(nan), ours.isnan())
    assert torch.equal(ours.view(torch.int16)[~nan], wanted.view(torch.int16)[~nan])


@pytest.mark.parametrize(
    ("number", "stored"),
    [
        (0x00000000, 0x0000),
        (0x80000000, 0x8000),
        (0x7F7F7FFF, 0x7F7F),  # just below half-way to what bfloat16 does not have
        (0x7F7F8000, 0x7F80),  # half-way: infinite
        (0x7F7FFFFF, 0x7F80),  # the largest float32
        (0xFF7FFFFF, 0xFF80),
        (0x7F800000, 0x7F80),
        (0xFF800000, 0xFF80),
        (0x7F800001, 0x7FC0),  # NaN, whose upper bits alone would be infinite
        (0xFFFFFFFF, 0x7FC0),  # NaN, which rounding up would make 0
        (0x3F808000, 0x3F80),  # half-way, to the even one below
        (0x3F818000, 0x3F82),  # half-way, to the even one above
        (0x00008000, 0x0000),
        (0x00018000, 0x0002),
    ],
)
def test_the_edges_of_bfloat16_are_frozen(number: int, stored: int) -> None:
    assert narrowed(np.array([number], dtype=np.uint32)).tolist() == [stored]


def test_every_bfloat16_comes_back_as_it_was() -> None:
    raw = np.arange(1 << 16, dtype=np.uint16)
    wide = np.empty(1 << 16, dtype=np.float32)
    widen(raw, wide)
    finite = ~np.isnan(wide)
    assert (narrowed(wide.view(np.uint32))[finite] == raw[finite]).all()
    assert torch.equal(
        torch.from_numpy(wide[finite]), torch.from_numpy(raw[finite].view(np.int16)).view(torch.bfloat16).float()
    )


# The inner product.


def eight_lanes(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    """Return the inner product as it is defined: float64 products, the i-th added to lane i mod 8, then the lanes."""
    lanes = [0.0] * 8
    for i, (x, y) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        lanes[i % 8] += x * y
    total = 0.0
    for lane in lanes:
        total += lane
    return total


@settings(deadline=None, max_examples=50)
@given(size=st.integers(0, 200), seed=st.integers(0, 99))
def test_an_inner_product_is_summed_in_one_order_to_the_bit(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    left, right = (generator.normal(size=size).astype(np.float32) for _ in range(2))
    assert dot(left, right) == eight_lanes(left, right) == dot(right, left)


def test_an_inner_product_does_not_depend_on_where_the_vectors_lie() -> None:
    left, right = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    once = dot(left, right)
    assert once == pytest.approx(float(left.astype(np.float64) @ right.astype(np.float64)), rel=1e-12)
    for offset in range(1, 9):
        room = np.zeros((2, 1000 + offset), dtype=np.float32)
        room[:, offset:] = left, right
        assert dot(room[0, offset:], room[1, offset:]) == once


@settings(deadline=None, max_examples=30)
@given(
    n_rows=st.integers(1, 3),
    length=st.sampled_from([1, 7, 64, 1024, 1031, 3000]),
    k=st.integers(1, 4),
    based=st.booleans(),
)
def test_inner_products_of_all_pairs_are_those_of_each_pair(n_rows: int, length: int, k: int, *, based: bool) -> None:
    stored = np.random.default_rng(length).normal(size=(k + 1, n_rows * length)).astype(np.float32)
    base = stored[k] if based else stored[k, :0]
    parts = stored[:k] - stored[k] if based else stored[:k]
    found = np.ones((n_rows, k, k))
    inner_products(stored[:k], base, length, found)
    for row in range(n_rows):
        own = parts[:, row * length : (row + 1) * length]
        assert found[row].tolist() == [[1 + eight_lanes(left, right) for right in own] for left in own]


def test_without_room_a_cut_is_worked_out_again_and_is_the_same() -> None:
    values = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    asked = 0

    def stretches() -> list[Entries]:
        nonlocal asked
        asked += 1
        return [Entries(0, values)]

    magnitudes = MagnitudesOnCpu(stretches)
    kept, forgetful = MagnitudeOrder(magnitudes), MagnitudeOrder(magnitudes, budget=MemoryBudget(0))
    assert kept.cut(700) == kept.cut(700)
    assert asked == 2  # the histogram, and one bin
    assert forgetful.cut(700) == forgetful.cut(700) == kept.cut(700)
    assert asked == 5
