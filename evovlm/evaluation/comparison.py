"""Whether one model is better than another on the same samples: a paired test and the interval of the difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evovlm.evaluation.intervals import difference_interval
from evovlm.seeding import generator

_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The mean difference first - second with its 95 % interval, a two-sided p-value, and who won how many samples."""

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
    """Compare scores of the same samples: McNemar's exact test where all are 0 or 1, else a paired bootstrap.

    Raises ValueError for none, or for unequal numbers of them.
    """
    low, high = difference_interval(first, second)
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=_mcnemar(wins, losses) if binary else _bootstrap(differences),
        test="McNemar, exact" if binary else "paired bootstrap",
        n=len(differences),
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
    )


def _mcnemar(wins: int, losses: int) -> float:
    """Return how likely a fair coin is to fall this unequally or more (McNemar 1947, exact)."""
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _bootstrap(differences: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
    """Return how often resampled differences, moved to a mean of 0, are as far from it as the one found."""
    n = len(differences)
    centred = differences - differences.mean()
    rng = generator("paired bootstrap", n)
    means = np.array([centred[rng.integers(n, size=n)].mean() for _ in range(_RESAMPLES)])
    return float((1 + (abs(means) >= abs(differences.mean()) - 1e-12).sum()) / (1 + _RESAMPLES))
