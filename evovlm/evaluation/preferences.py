"""How strong contestants are by what people preferred, and how far the people agree.

Bradley and Terry (1952): the contestant i is preferred to j with probability 1 / (1 + exp(s_j - s_i)), where s are the
strengths. A tie counts half for each side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.evaluation.intervals import Interval

_Floats: TypeAlias = npt.NDArray[np.float64]

_Z = 1.959963984540054
_PRIOR_SPREAD = 2.0
"""The standard deviation of the normal prior of a strength: without it, one that always wins has no finite strength."""
_STEPS = 100
_PRECISION = 1e-10


class Outcome(NamedTuple):
    """The result of one comparison of the contestants `first` and `second`: 1 the first is preferred, 0.5 a tie, 0."""

    first: int
    second: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """A contestant's strength, as how often it is preferred to an average contestant of this comparison, in [0, 1].

    `interval` has 95 %; `n` counts its comparisons, of which it `won` some; a tie is half a win.
    """

    share: float
    interval: Interval
    n: int
    won: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How two people decided on the `n` comparisons that both made: the share of equal decisions, and Cohen's kappa.

    The kappa (Cohen 1960) is 0 for what chance gives, 1 for equal decisions; None where both always decided the same.
    """

    n: int
    share: float
    kappa: float | None


def strengths(outcomes: Sequence[Outcome], *, n_contestants: int) -> tuple[Strength, ...]:
    """Return the strength of each contestant (Bradley-Terry, with a normal prior; intervals by Laplace's method).

    Raises ValueError for a contestant number outside of the range.
    """
    if any(not 0 <= side < n_contestants for each in outcomes for side in (each.first, each.second)):
        raise ValueError(f"a comparison names a contestant that is not among the {n_contestants}")
    values, covariance = _fit(outcomes, n_contestants)
    centred = np.eye(n_contestants) - 1 / n_contestants
    values, spread = centred @ values, np.sqrt(np.diag(centred @ covariance @ centred.T))
    played, won = np.zeros(n_contestants), np.zeros(n_contestants)
    for each in outcomes:
        played[[each.first, each.second]] += 1
        won[[each.first, each.second]] += each.value, 1 - each.value
    return tuple(
        Strength(
            share=_logistic(values[index]),
            interval=Interval(
                _logistic(values[index] - _Z * spread[index]), _logistic(values[index] + _Z * spread[index])
            ),
            n=int(played[index]),
            won=float(won[index]),
        )
        for index in range(n_contestants)
    )


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Return how far two people agree; both have a decision for each comparison, in the same order.

    Raises ValueError for no comparison, or for unequal numbers.
    """
    if not first or len(first) != len(second):
        raise ValueError("agreement needs the decisions of two people on the same comparisons, at least one")
    n = len(first)
    share = sum(one == other for one, other in zip(first, second, strict=True)) / n
    words = set(first) | set(second)
    by_chance = sum(first.count(word) * second.count(word) for word in words) / n**2
    return Agreement(n=n, share=share, kappa=None if by_chance == 1 else (share - by_chance) / (1 - by_chance))


def _fit(outcomes: Sequence[Outcome], n: int) -> tuple[_Floats, _Floats]:
    """Return the most probable strengths and their covariance, by Newton's method on a concave function."""
    design = np.zeros((len(outcomes), n))
    rows = np.arange(len(outcomes))
    design[rows, [each.first for each in outcomes]] = 1
    design[rows, [each.second for each in outcomes]] -= 1
    results = np.array([each.value for each in outcomes], dtype=np.float64)
    found: _Floats = np.zeros(n)
    prior = np.eye(n) / _PRIOR_SPREAD**2
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-(design @ found)))
        curvature = design.T @ (design * (expected * (1 - expected))[:, None]) + prior
        step = np.linalg.solve(curvature, design.T @ (results - expected) - prior @ found)
        # Far from the optimum a full step may overshoot.
        found += step * min(1.0, 2.0 / max(float(np.abs(step).max(initial=0.0)), 1e-300))
        if np.abs(step).max(initial=0.0) < _PRECISION:
            break
    expected = 1 / (1 + np.exp(-(design @ found)))
    curvature = design.T @ (design * (expected * (1 - expected))[:, None]) + prior
    covariance: _Floats = np.linalg.inv(curvature).astype(np.float64)
    return found, covariance


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))
