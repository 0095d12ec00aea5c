"""Chooses the samples that a generation is scored on, and their order in a race."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from evovlm.errors import ConfigError
from evovlm.evaluation.workers.jobs import Rows
from evovlm.recipes.candidate import TaskScore
from evovlm.seeding import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleParts:
    """The parts of the search split: the last `validation` samples of each task, and batches of the others.

    `sizes` are the tasks' numbers of samples, by name. Raises ConfigError when a task has too few.
    """

    sizes: Mapping[str, int]
    seed: int
    batch: int | None
    validation: int | None

    def __post_init__(self) -> None:
        kept = self.validation or 0
        for name, size in self.sizes.items():
            if size - kept < (self.batch or 1):
                drawn = f"batches of {self.batch}" if self.batch else "the candidates"
                raise ConfigError(
                    f"task {name}: of its {size} samples, {kept} are kept for validation, which leaves too few for "
                    f"{drawn}.\n    Lower `batch` or `validation`, or raise the task's `limit`."
                )

    def of_candidates(self, generation: int) -> Rows | None:
        """Return the rows that a generation is scored on, a function of the seed and its number; None for all rows."""
        if self.batch is None:
            return tuple(tuple(range(size)) for size in self._left().values()) if self.validation else None
        rows = []
        for name, size in self._left().items():
            drawn = generator("batch", self.seed, generation, name).choice(size, size=self.batch, replace=False)
            rows.append(tuple(sorted(drawn.tolist())))
        return tuple(rows)

    def of_means(self) -> Rows | None:
        """Return the rows that the distribution's mean is evaluated on; None for all rows."""
        if self.validation is None:
            return None if self.batch is None else tuple(tuple(range(size)) for size in self.sizes.values())
        return tuple(tuple(range(size - self.validation, size)) for size in self.sizes.values())

    def _left(self) -> Mapping[str, int]:
        return {name: size - (self.validation or 0) for name, size in self.sizes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a candidate of an earlier `generation` scored on a task, and its `fitness`."""

    generation: int
    fitness: float
    score: TaskScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """What an order may depend on: the name and the `size` of the task, the search's seed, the generation, and what
    candidates of earlier generations scored on the task, in the order of the journal.
    """

    size: int
    task: str
    seed: int
    generation: int
    past: Sequence[Past]


Order: TypeAlias = Callable[[Ordering], list[int]]
"""Returns each of the task's rows once."""

_SOLVED = 0.9
_UNSOLVED_SHARE = 0.9


def shuffled(ordering: Ordering) -> list[int]:
    """Return the rows at random, drawn again for each generation, so that a candidate's mean is unbiased."""
    draws = generator("race", ordering.seed, ordering.generation, ordering.task)
    return [int(row) for row in draws.permutation(ordering.size)]


def fixed(ordering: Ordering) -> list[int]:
    """Return the rows at random, the same in each generation, so that all candidates can be compared."""
    draws = generator("race", ordering.seed, ordering.task)
    return [int(row) for row in draws.permutation(ordering.size)]


def informative(ordering: Ordering) -> list[int]:
    """Return first, at random, the rows that can still distinguish candidates; every tenth row is one of the others.

    A row can distinguish them if no candidate has seen it yet, or if the better half of the last generation that saw it
    scored less than 0.9 on average. A search improves by solving more rows, and the next generation hardly ever loses
    what the better half solves. Means over these rows are too low and differences too large, but of the right sign.
    """
    solved = np.zeros(ordering.size, dtype=np.bool_)
    for better in _better_halves(ordering.past):
        total, count = np.zeros(ordering.size), np.zeros(ordering.size)
        for score in better:
            rows = np.arange(score.n) if score.rows is None else np.array(score.rows)
            total[rows] += score.per_sample
            count[rows] += 1
        solved[count > 0] = total[count > 0] >= _SOLVED * count[count > 0]
    rows = np.array(shuffled(ordering))
    # Each row's position if one row in ten were a solved one.
    open_rows, solved_rows = rows[~solved[rows]], rows[solved[rows]]
    places = {int(row): (place + 1) / _UNSOLVED_SHARE for place, row in enumerate(open_rows)}
    places |= {int(row): (place + 1) / (1.0 - _UNSOLVED_SHARE) for place, row in enumerate(solved_rows)}
    return sorted(places, key=lambda row: (places[row], row))


def _better_halves(past: Sequence[Past]) -> list[list[TaskScore]]:
    """Return the scores of the better half of each generation, the first generation first."""
    found = []
    for generation in sorted({each.generation for each in past}):
        own = sorted((each for each in past if each.generation == generation), key=lambda each: -each.fitness)
        found.append([each.score for each in own[: (len(own) + 1) // 2]])
    return found


INFORMATIVE = "informative"
ORDERS: Mapping[str, Order] = {"shuffled": shuffled, "fixed": fixed, INFORMATIVE: informative}
