"""Strengths from comparisons, held against a general optimiser, and agreement between people."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from evovlm.evaluation.preferences import Outcome, agreement, strengths

_N = 4
_OUTCOMES = st.lists(
    st.tuples(st.integers(0, _N - 1), st.integers(0, _N - 1), st.sampled_from([0.0, 0.5, 1.0]))
    .filter(lambda each: each[0] != each[1])
    .map(lambda each: Outcome(*each)),
    max_size=40,
)


@settings(deadline=None, max_examples=50)
@given(outcomes=_OUTCOMES)
def test_strengths_are_the_most_probable_ones(outcomes: list[Outcome]) -> None:
    def loss(values: np.ndarray) -> float:
        margins = np.array([values[each.first] - values[each.second] for each in outcomes])
        results = np.array([each.value for each in outcomes])
        likelihood = (results * -np.logaddexp(0, -margins) + (1 - results) * -np.logaddexp(0, margins)).sum()
        return float(-likelihood + (values**2).sum() / 8)

    best = minimize(loss, np.zeros(_N), method="BFGS", options={"gtol": 1e-8}).x
    expected = 1 / (1 + np.exp(-(best - best.mean())))
    found = strengths(outcomes, n_contestants=_N)
    np.testing.assert_allclose([each.share for each in found], expected, atol=1e-5)
    assert all(each.interval.low <= each.share <= each.interval.high for each in found)
    assert sum(each.n for each in found) == 2 * len(outcomes)
    assert sum(each.won for each in found) == len(outcomes)


def test_the_sides_do_not_matter() -> None:
    outcomes = [Outcome(0, 1, 1.0), Outcome(1, 2, 0.5), Outcome(2, 0, 0.0)]
    turned = [Outcome(each.second, each.first, 1 - each.value) for each in outcomes]
    for one, other in zip(strengths(outcomes, n_contestants=3), strengths(turned, n_contestants=3), strict=True):
        assert one.share == pytest.approx(other.share)
        assert one.interval == pytest.approx(other.interval)


def test_intervals_cover_what_was_simulated() -> None:
    draws, true = np.random.default_rng(0), np.array([0.8, 0.2, -0.3, -0.7])
    inside = 0
    for _ in range(200):
        pairs = [draws.choice(4, size=2, replace=False) for _ in range(60)]
        outcomes = [
            Outcome(int(i), int(j), float(draws.random() < 1 / (1 + np.exp(true[j] - true[i])))) for i, j in pairs
        ]
        found = strengths(outcomes, n_contestants=4)
        shares = 1 / (1 + np.exp(-true))
        inside += sum(
            each.interval.low <= share <= each.interval.high for each, share in zip(found, shares, strict=True)
        )
    # 95 % of 800; the prior makes them a little wide.
    assert 0.93 * 800 <= inside <= 800


def test_one_that_always_wins_has_a_finite_strength_and_more_comparisons_narrow_it() -> None:
    few = strengths([Outcome(0, 1, 1.0)] * 2, n_contestants=2)
    many = strengths([Outcome(0, 1, 1.0)] * 50, n_contestants=2)
    assert 0.5 < few[0].share < many[0].share < 1
    assert few[0].interval.low < 0.5 < many[0].interval.low


def test_a_contestant_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="not among the 2"):
        strengths([Outcome(0, 2, 1.0)], n_contestants=2)


def test_agreement_is_cohens_kappa() -> None:
    # The example of Cohen (1960) in its usual form: 20 + 15 equal decisions of 50.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement(first, second)
    assert found.share == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert agreement(["a"], ["a"]).kappa is None
    with pytest.raises(ValueError, match="same comparisons"):
        agreement(["a"], [])
