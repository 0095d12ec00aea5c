"""95 % intervals: Wilson's against published values, the bootstrap against theory."""

import math

import numpy as np
import pytest

from evovlm.evaluation.intervals import difference_interval, mean_interval, resampled_means, wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3.
        (15, 148, 0.0624, 0.1605),
        (81, 263, 0.2553, 0.3662),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_that_of_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes=successes, n=n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_zeros_and_ones_get_wilsons_interval() -> None:
    assert mean_interval([1.0, 0.0, 1.0, 1.0]) == wilson_interval(successes=3, n=4)


def test_all_right_and_all_wrong_stay_inside_the_unit_interval() -> None:
    assert mean_interval([1.0] * 10).high == 1.0
    assert mean_interval([1.0] * 10).low < 1.0
    assert mean_interval([0.0] * 10).low == 0.0


def test_real_scores_get_a_bootstrap_near_the_normal_interval() -> None:
    scores = np.random.default_rng(0).beta(2, 3, size=400).tolist()
    interval = mean_interval(scores)
    width = 1.96 * float(np.std(scores)) / math.sqrt(400)
    assert interval.low == pytest.approx(float(np.mean(scores)) - width, abs=0.1 * width)
    assert interval.high == pytest.approx(float(np.mean(scores)) + width, abs=0.1 * width)


def test_an_interval_is_the_same_each_time() -> None:
    scores = [0.1, 0.5, 0.25, 0.9]
    assert mean_interval(scores) == mean_interval(scores)


def test_a_paired_difference_is_narrower_than_two_separate_intervals() -> None:
    generator = np.random.default_rng(1)
    hard = generator.random(200)
    first, second = np.clip(hard + 0.05, 0, 1).tolist(), np.clip(hard, 0, 1).tolist()
    interval = difference_interval(first, second)
    assert 0.0 < interval.low < interval.high
    assert interval.high - interval.low < mean_interval(first).high - mean_interval(first).low


def test_no_scores_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_a_difference_needs_the_same_samples() -> None:
    with pytest.raises(ValueError, match="same samples"):
        difference_interval([0.1, 0.2], [0.1])


def test_many_scores_are_resampled_in_little_memory_and_alike() -> None:
    values = np.random.default_rng(0).random(5_000)
    means = resampled_means(values)
    assert means.shape == (2000,)
    assert float(means.mean()) == pytest.approx(float(values.mean()), abs=1e-3)
    assert float(means.std()) == pytest.approx(float(values.std()) / math.sqrt(5_000), rel=0.05)
    np.testing.assert_allclose(resampled_means(-values), -means)
