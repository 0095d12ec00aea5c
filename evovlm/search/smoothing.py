"""Smooth noisy scores over neighbouring candidates by Gaussian process regression.

A score on few samples is mostly luck. Fitness changes smoothly with the genome, so the scores of a candidate's
neighbours say something about its own (Rasmussen and Williams 2006, algorithm 2.1; Kern et al. 2006 for models in
CMA-ES).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Multiples of a typical distance, and of the variance of the observed values; the most likely pair is taken.
_LENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
_SIGNALS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Points, shape (n, dim), the observed values and their error variances, both of shape (n,)."""

    points: Floats
    values: Floats
    noise: Floats


def smoothed(observed: Observed) -> Floats:
    """Return the expected value at each point given all observations, shape (n,).

    The covariance is squared-exponential in the distance; its length and variance are the most likely ones on a grid.
    If neighbouring values are unrelated, each value is only pulled towards the mean.
    """
    squared = ((observed.points[:, None] - observed.points) ** 2).sum(axis=2)
    spread = float(observed.values.var())
    if not (squared > 0).any() or spread == 0.0:
        return observed.values.copy()
    typical = float(np.median(squared[squared > 0]))
    weights = 1.0 / (observed.noise + spread)
    left = observed.values - float(weights @ observed.values / weights.sum())
    best, expected = -np.inf, left
    for length, signal in product(_LENGTHS, _SIGNALS):
        covariance = signal * spread * np.exp(-squared / (2.0 * length**2 * typical))
        lower = np.linalg.cholesky(covariance + np.diag(observed.noise))
        half = np.linalg.solve(lower, left)
        likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(lower)).sum())
        if likelihood > best:
            best, expected = likelihood, covariance @ np.linalg.solve(lower.T, half)
    found: Floats = observed.values - left + expected
    return found
