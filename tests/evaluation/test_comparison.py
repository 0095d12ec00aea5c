"""Two models on the same samples: McNemar's exact test, the paired bootstrap, and what cannot be compared."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.errors import TaskError
from evovlm.evaluation.comparison import bootstrap_p_value, compare, compare_by_id, mcnemar_p_value


def by_id(scores: list[float]) -> dict[str, float]:
    return {str(number): score for number, score in enumerate(scores)}


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        # R: binom.test(c(wins, losses))$p.value
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (6, 0, 0.03125),
        (2, 10, 0.03857421875),
        (15, 5, 0.04138946533203125),
        (86, 150, 3.716e-05),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(wins: int, losses: int, p: float) -> None:
    assert mcnemar_p_value(wins=wins, losses=losses) == pytest.approx(p, rel=1e-3)
    assert mcnemar_p_value(wins=losses, losses=wins) == mcnemar_p_value(wins=wins, losses=losses)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_mcnemar_counts_the_coin_tosses_at_least_as_uneven(n: int) -> None:
    tosses = [sum(toss) for toss in itertools.product((0, 1), repeat=n)]
    for wins in range(n + 1):
        uneven = sum(abs(2 * heads - n) >= abs(2 * wins - n) for heads in tosses)
        assert mcnemar_p_value(wins=wins, losses=n - wins) == pytest.approx(uneven / 2**n)


def test_many_samples_do_not_overflow() -> None:
    assert 0.0 < mcnemar_p_value(wins=5_100, losses=4_900) < 0.05
    assert mcnemar_p_value(wins=100_000, losses=0) == 0.0


def test_scores_of_zero_and_one_are_counted() -> None:
    first = by_id([1.0] * 30 + [0.0] * 10 + [1.0] * 12 + [0.0] * 2)
    second = by_id([1.0] * 30 + [0.0] * 10 + [0.0] * 12 + [1.0] * 2)
    found = compare_by_id(first, second)
    assert (found.test, found.n, found.wins, found.losses, found.ties) == ("McNemar, exact", 54, 12, 2, 40)
    assert found.difference == pytest.approx(10 / 54)
    assert found.p_value == mcnemar_p_value(wins=12, losses=2) < 0.05
    assert 0.0 < found.low < found.difference < found.high


def test_other_scores_are_resampled() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(200)
    better = by_id(np.clip(hard * 0.9 + 0.03 + generator.normal(0, 0.05, 200), 0, 1).tolist())
    same = by_id(np.clip(hard * 0.9 + generator.normal(0, 0.05, 200), 0, 1).tolist())
    found = compare_by_id(better, same)
    assert found.test == "paired bootstrap"
    assert found.low > 0.0
    assert found.p_value < 0.01


def test_the_bootstrap_p_value_is_near_students_for_many_samples() -> None:
    generator = np.random.default_rng(3)
    differences = generator.normal(0.0, 0.1, 400)
    first = 0.5 + differences - differences.mean() + 0.1 * 1.96 / 20
    # A mean of 1.96 standard errors (0.1 / 20).
    assert bootstrap_p_value(first.tolist(), [0.5] * 400) == pytest.approx(0.05, abs=0.02)


unit_scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(unit_scores, st.booleans())
def test_turned_around_a_comparison_is_its_mirror_image(pairs: list[tuple[float, float]], binary: bool) -> None:
    first, second = (by_id([float(round(p[k])) if binary else p[k] for p in pairs]) for k in (0, 1))
    one, other = compare_by_id(first, second), compare_by_id(second, first)
    assert other.difference == pytest.approx(-one.difference, abs=1e-12)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-12)
    assert other.p_value == pytest.approx(one.p_value)
    assert (other.wins, other.losses, other.ties) == (one.losses, one.wins, one.ties)
    assert one.low - 1e-12 <= one.high
    assert 0.0 < one.p_value <= 1.0
    assert one.wins + one.losses + one.ties == one.n == len(pairs)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_same_scores_differ_by_nothing(scores: list[float]) -> None:
    found = compare_by_id(by_id(scores), by_id(scores))
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert found.ties == found.n


def test_the_order_of_samples_does_not_matter() -> None:
    first, second = by_id([0.1, 0.5, 0.9, 0.2]), by_id([0.2, 0.4, 0.9, 0.1])
    assert compare_by_id(dict(reversed(first.items())), second) == compare_by_id(first, second)


def test_scores_on_other_samples_are_not_compared() -> None:
    with pytest.raises(TaskError, match=r"1 only the first has \(b\) and 4 only the second has \(c, d, e, \.\.\.\)"):
        compare_by_id({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0, "d": 0.0, "e": 0.0, "f": 0.0})
    with pytest.raises(TaskError, match="Nothing to compare"):
        compare_by_id({}, {})


def test_scores_without_ids_are_taken_in_order() -> None:
    first, second = [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]
    assert compare(first, second, binary=True) == compare_by_id(by_id(first), by_id(second))
    assert compare(first, second, binary=False).test == "paired bootstrap"
    with pytest.raises(ValueError, match="same samples"):
        compare(first, second[:2], binary=True)
