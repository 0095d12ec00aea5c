"""95 % intervals for means of per-sample scores."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.seeding import generator

_Z = 1.959963984540054
_RESAMPLES = 2000
_AT_ONCE = 100

Floats: TypeAlias = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """The two ends of an interval."""

    low: float
    high: float


def mean_interval(scores: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean: Wilson's if every score is 0 or 1, else a seeded percentile bootstrap.

    Scores are in [0, 1]. Raises ValueError for no scores.
    """
    if not scores:
        raise ValueError("an interval needs at least one score")
    if all(score in (0.0, 1.0) for score in scores):
        return wilson_interval(successes=int(sum(scores)), n=len(scores))
    return _middle(resampled_means(np.asarray(scores, dtype=np.float64)))


def wilson_interval(*, successes: int, n: int) -> Interval:
    """Return Wilson's score interval for a share of `successes` in `n` (Wilson 1927)."""
    share = successes / n
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    centre = share + _Z * _Z / (2 * n)
    scale = 1 + _Z * _Z / n
    # At a share of 0 or 1, rounding would put the share itself just outside.
    return Interval(min(share, max(0.0, (centre - spread) / scale)), max(share, min(1.0, (centre + spread) / scale)))


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean difference first - second over the same samples (paired bootstrap).

    Raises ValueError for no scores, or for unequal numbers of them.
    """
    if not first or len(first) != len(second):
        raise ValueError("a paired difference needs the scores of the same samples, at least one")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return _middle(resampled_means(differences))


def resampled_means(values: Floats) -> Floats:
    """Return the means of 2000 bootstrap resamples of `values`, shape (2000,).

    The draw depends only on the number of values, so scores of two models on the same samples are resampled equally.
    """
    draws = generator("bootstrap", len(values))
    means = np.empty(_RESAMPLES)
    # Not all at once: 2000 resamples of 100,000 scores would take 3 GB.
    for start in range(0, _RESAMPLES, _AT_ONCE):
        chosen = draws.integers(len(values), size=(min(_AT_ONCE, _RESAMPLES - start), len(values)))
        means[start : start + _AT_ONCE] = values[chosen].mean(axis=1)
    return means


def _middle(means: Floats) -> Interval:
    return Interval(*(float(end) for end in np.quantile(means, (0.025, 0.975))))
