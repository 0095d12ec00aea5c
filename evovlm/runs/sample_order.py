"""In which order the samples of a generation come while its candidates race on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from evovlm.recipes.candidate import TaskScore

Past: TypeAlias = Sequence[TaskScore]
"""What candidates of earlier generations scored on a task, in the order of the journal."""

Order: TypeAlias = Callable[[int, Past, np.random.Generator], list[int]]
"""Takes the number of samples, what was scored on them, and random draws; returns each row once."""

# The candidates of long ago fail where those of today do not.
_RECENT = 30


def shuffled(size: int, past: Past, draws: np.random.Generator) -> list[int]:  # noqa: ARG001 - it asks no past
    """Return the rows at random, so that a candidate's mean is unbiased."""
    return [int(row) for row in draws.permutation(size)]


def informative(size: int, past: Past, draws: np.random.Generator) -> list[int]:
    """Return those rows first on which the last candidates disagree most, at random in proportion to how much they do.

    One sample's disagreement is the variance of what they scored, each half a right and half a wrong answer richer.
    Means over such rows are biased towards what is neither easy nor hard; differences keep their sign.
    """
    count, total, squares = np.ones(size), np.full(size, 0.5), np.full(size, 0.5)
    for score in past[-_RECENT:]:
        rows = np.arange(score.n) if score.rows is None else np.array(score.rows)
        values = np.array(score.per_sample)
        count[rows] += 1
        total[rows] += values
        squares[rows] += values**2
    weights = squares / count - (total / count) ** 2
    # Efraimidis and Spirakis 2006: a draw without replacement, each time by the weights of what is left.
    keys = np.log1p(-draws.random(size)) / weights
    return [int(row) for row in np.argsort(-keys, kind="stable")]


ORDERS: Mapping[str, Order] = {"shuffled": shuffled, "informative": informative}
