"""Smoothing: what neighbours tell of a candidate, where they do, and where they do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.search.smoothing import Observed, smoothed


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_where_fitness_is_smooth_the_order_is_nearer_to_the_truth_than_what_was_observed() -> None:
    gains = []
    for seed in range(10):
        draws = np.random.default_rng(seed)
        points = draws.random((60, 6))
        truth = -((points - 0.4) ** 2).sum(axis=1)
        observed = truth + draws.normal(0.0, 0.3, 60)
        found = smoothed(Observed(points=points, values=observed, noise=np.full(60, 0.09)))
        before, after = (np.corrcoef(ranks(values), ranks(truth))[0, 1] for values in (observed, found))
        gains.append(after - before)
    assert np.mean(gains) > 0.05
    assert min(gains) > 0.0


def test_what_is_certain_stays_as_it_was_observed() -> None:
    draws = np.random.default_rng(0)
    values = draws.random(20)
    found = smoothed(Observed(points=draws.random((20, 3)), values=values, noise=np.full(20, 1e-6)))
    assert found == pytest.approx(values, abs=0.01)


def test_the_luckiest_of_those_who_saw_little_is_not_the_best() -> None:
    draws = np.random.default_rng(1)
    points = draws.random((12, 40))
    values = np.append(np.linspace(0.0, 0.8, 11), 0.9)
    noise = np.append(np.full(11, 0.001), 0.2)
    assert np.argmax(smoothed(Observed(points=points, values=values, noise=noise))) == 10


def test_equal_points_or_equal_values_are_left_as_they_are() -> None:
    values = np.array([0.1, 0.5, 0.9])
    same = Observed(points=np.zeros((3, 2)), values=values, noise=np.full(3, 0.1))
    assert np.array_equal(smoothed(same), values)
    flat = Observed(points=np.eye(3), values=np.full(3, 0.4), noise=np.full(3, 0.1))
    assert np.array_equal(smoothed(flat), flat.values)


@given(seed=st.integers(0, 1000), count=st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_it_is_finite_and_does_not_depend_on_where_the_values_begin(seed: int, count: int) -> None:
    draws = np.random.default_rng(seed)
    points = np.round(draws.random((count, 2)), 1)
    values, noise = draws.random(count), draws.uniform(1e-4, 0.1, count)
    found = smoothed(Observed(points=points, values=values, noise=noise))
    assert np.isfinite(found).all()
    assert smoothed(Observed(points=points, values=values + 2.0, noise=noise)) == pytest.approx(found + 2.0, abs=1e-6)
