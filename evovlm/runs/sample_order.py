"""In which order the samples of a task come while a generation races on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from evovlm.recipes.candidate import TaskScore
from evovlm.seeding import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """What an order is made of: the `size` of a task of that name, whose search and generation it is, and what
    candidates of earlier generations scored on the task, in the order of the journal.
    """

    size: int
    task: str
    seed: int
    generation: int
    past: Sequence[TaskScore]


Order: TypeAlias = Callable[[Ordering], list[int]]
"""Returns each of the task's rows once."""

# The candidates of long ago fail where those of today do not.
_RECENT = 30


def shuffled(ordering: Ordering) -> list[int]:
    """Return the rows at random, drawn anew for each generation, so that a candidate's mean is unbiased."""
    draws = generator("race", ordering.seed, ordering.generation, ordering.task)
    return [int(row) for row in draws.permutation(ordering.size)]


def fixed(ordering: Ordering) -> list[int]:
    """Return the rows at random, the same in each generation, so that all candidates can be compared."""
    draws = generator("race", ordering.seed, ordering.task)
    return [int(row) for row in draws.permutation(ordering.size)]


def informative(ordering: Ordering) -> list[int]:
    """Return those rows first on which the last candidates disagree most, at random in proportion to how much they do.

    One sample's disagreement is the variance of what they scored, each half a right and half a wrong answer richer.
    Means over such rows are biased towards what is neither easy nor hard; differences keep their sign.
    """
    count, total, squares = np.ones(ordering.size), np.full(ordering.size, 0.5), np.full(ordering.size, 0.5)
    for score in ordering.past[-_RECENT:]:
        rows = np.arange(score.n) if score.rows is None else np.array(score.rows)
        values = np.array(score.per_sample)
        count[rows] += 1
        total[rows] += values
        squares[rows] += values**2
    weights = squares / count - (total / count) ** 2
    # Efraimidis and Spirakis 2006: a draw without replacement, each time by the weights of what is left.
    draws = generator("race", ordering.seed, ordering.generation, ordering.task)
    keys = np.log1p(-draws.random(ordering.size)) / weights
    return [int(row) for row in np.argsort(-keys, kind="stable")]


ORDERS: Mapping[str, Order] = {"shuffled": shuffled, "fixed": fixed, "informative": informative}
