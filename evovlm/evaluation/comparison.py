"""Compares two models' scores on the same samples: the difference, and whether it is more than chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from evovlm.errors import TaskError
from evovlm.evaluation.intervals import difference_interval, resampled_means

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first model compared with the second, over the `n` samples that both answered.

    `difference` is the mean of first - second, in [-1, 1], with its 95 % interval `low` to `high` (paired bootstrap).
    `p_value` is two-sided: the probability of a difference at least as large if neither is better, by the named `test`.
    `wins` counts the samples on which the first scores higher, `losses` those on which the second does.
    """

    difference: float
    low: float
    high: float
    p_value: float
    test: str
    n: int
    wins: int
    losses: int
    ties: int


def compare(first: Sequence[float], second: Sequence[float], *, binary: bool) -> Comparison:
    """Compare two models' scores (in [0, 1]) of the same samples, in the same order.

    The test is McNemar's in its exact form for `binary` scores (0 or 1), else a paired bootstrap. Raises ValueError for
    no scores, or for unequal numbers of them.
    """
    low, high = difference_interval(first, second)
    pairs = list(zip(first, second, strict=True))
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    return Comparison(
        difference=math.fsum(a - b for a, b in pairs) / len(pairs),
        low=low,
        high=high,
        p_value=mcnemar_p_value(wins=wins, losses=losses) if binary else bootstrap_p_value(first, second),
        test="McNemar, exact" if binary else "paired bootstrap",
        n=len(pairs),
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
    )


def compare_by_id(first: Mapping[str, float], second: Mapping[str, float]) -> Comparison:
    """Compare two models' scores by their samples' ids; scores are binary if every one is 0 or 1.

    Raises TaskError for scores of different samples, or without any.
    """
    _check_same_samples(first, second)
    ids = sorted(first)
    left, right = [first[each] for each in ids], [second[each] for each in ids]
    return compare(left, right, binary=all(score in (0.0, 1.0) for score in (*left, *right)))


def mcnemar_p_value(*, wins: int, losses: int) -> float:
    """Return the two-sided p-value of McNemar's test in its exact, binomial form (McNemar 1947; Edwards 1948).

    If neither model is better, each sample on which they differ is a fair coin. 1 if they never differ.
    """
    n = wins + losses
    # The sum of the binomial coefficients up to min(wins, losses), each from the one before.
    tail = coefficient = 1
    for k in range(min(wins, losses)):
        coefficient = coefficient * (n - k) // (k + 1)
        tail += coefficient
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def bootstrap_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of a paired bootstrap (Efron and Tibshirani 1993, chapter 16).

    The differences are shifted to a mean of 0, as if neither model were better; the p-value is the share of 2000 seeded
    resamples whose mean is at least as far from 0 as the observed one, which counts as one more resample.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = abs(differences.mean())
    means = resampled_means(differences - differences.mean())
    # Sums in another order differ in their last bits.
    extreme = int((np.abs(means) >= found - 1e-12).sum())
    return (extreme + 1) / (len(means) + 1)


def _check_same_samples(first: Mapping[str, float], second: Mapping[str, float]) -> None:
    if not first and not second:
        raise TaskError("Nothing to compare: neither side has a scored sample.")
    only_first, only_second = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    if only_first or only_second:
        parts = [
            f"{len(ids)} only {side} has ({', '.join(ids[:_SHOWN])}{', ...' if len(ids) > _SHOWN else ''})"
            for side, ids in (("the first", only_first), ("the second", only_second))
            if ids
        ]
        raise TaskError(
            f"A comparison needs scores of the same samples, matched by their ids, and {' and '.join(parts)}. "
            "Score both on the same samples."
        )
