"""Which entries are kept."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.merging.selection import (
    magnitude_limit,
    magnitude_order,
    magnitude_split,
    random_limit,
    random_order,
)
from evovlm.seeding import derive_seed
from tests.reference.merging import keep_largest
from tests.reference.philox import draw24


def test_the_draw_is_frozen() -> None:
    # Published recipes rely on these numbers: they never change.
    draws = random_order(42, "ja", "model.layers.0.mlp.up_proj.weight", size=6)
    assert draws.tolist() == [7620657, 15434248, 12241967, 8084429, 15890500, 13869621]
    far = random_order(42, "ja", "model.layers.0.mlp.up_proj.weight", size=3, start=1_000_003)
    assert far.tolist() == [6962030, 10908616, 5893138]
    assert random_order(0, "a", "b", size=2).tolist() == [4394222, 15186761]


def test_the_draw_is_philox_as_published() -> None:
    key = derive_seed("dare", 5, "ja", "lm_head.weight")
    draws = random_order(5, "ja", "lm_head.weight", size=40, start=80)
    assert draws.tolist() == [draw24(key, index) for index in range(80, 120)]


@settings(deadline=None)
@given(start=st.integers(0, 200), size=st.integers(1, 100))
def test_a_draw_does_not_depend_on_where_it_is_entered(start: int, size: int) -> None:
    whole = random_order(7, "a", "t", size=300)
    assert torch.equal(random_order(7, "a", "t", size=size, start=start), whole[start : start + size])


def test_a_draw_longer_than_a_piece_is_one_stream() -> None:
    size = (1 << 20) + 11
    whole = random_order(7, "a", "t", size=size)
    assert torch.equal(whole[-20:], random_order(7, "a", "t", size=20, start=size - 20))


def test_seed_source_and_tensor_each_change_the_draw() -> None:
    draws = [
        random_order(*key, size=8).tolist() for key in ((1, "a", "t"), (2, "a", "t"), (1, "b", "t"), (1, "a", "u"))
    ]
    assert len({tuple(draw) for draw in draws}) == 4


def test_the_share_kept_is_the_density_and_neighbours_are_independent() -> None:
    draws = random_order(3, "a", "t", size=1_000_000)
    for density in (0.1, 0.5, 0.9):
        kept = (draws < random_limit(density, len(draws))).float()
        assert abs(float(kept.mean()) - density) < 4 * (density * (1 - density) / len(draws)) ** 0.5
        both = float((kept[1:] * kept[:-1]).mean())
        assert abs(both - density**2) < 0.003


@settings(deadline=None)
@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_entries_kept_at_a_lower_density_are_kept_at_a_higher_one(low: float, high: float) -> None:
    low, high = sorted((low, high))
    draws = random_order(3, "a", "t", size=500)
    kept_low, kept_high = draws < random_limit(low, 500), draws < random_limit(high, 500)
    assert not bool((kept_low & ~kept_high).any())


def test_the_limits_of_density_keep_nothing_and_all() -> None:
    draws = random_order(3, "a", "t", size=100_000)
    assert not bool((draws < random_limit(0.0, 100_000)).any())
    assert bool((draws < random_limit(1.0, 100_000)).all())


@settings(deadline=None)
@given(
    vector=st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40),
    density=st.floats(0.01, 1.0),
)
def test_magnitudes_are_kept_as_the_slow_twin_keeps_them(vector: list[float], density: float) -> None:
    tensor = torch.tensor(vector)
    limit = magnitude_limit(density, len(vector))
    wanted = keep_largest(vector, density) if density < 1 else [True] * len(vector)
    assert (magnitude_order(tensor) < limit).tolist() == wanted
    assert (magnitude_split(tensor, limit) < limit).tolist() == wanted


def test_at_least_one_entry_is_kept() -> None:
    assert magnitude_limit(0.001, 10) == 1
