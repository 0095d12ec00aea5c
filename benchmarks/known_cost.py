"""Workers whose candidates cost a known time and open no model, for worker_scaling.py; what travels is of real size."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evovlm.evaluation.workers.jobs import Job, Place
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore

TASK = "word_problems_ja"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCost:
    """Opens workers that answer `n_samples` in `seconds` a candidate, as a GPU would: the processor is idle meanwhile.

    With `spread`, candidates differ in cost by up to that share, evenly, by what they are.
    """

    seconds: float
    n_samples: int
    n_blocks: int
    sources: tuple[str, ...]
    spread: float = 0.0

    def open(self, place: Place) -> "KnownCostWorkers":  # noqa: ARG002 - costs the same everywhere
        """See Opening."""
        return KnownCostWorkers(self)


class KnownCostWorkers:
    """See KnownCost."""

    warnings = ()

    def __init__(self, opening: KnownCost) -> None:
        self.opening = opening

    @property
    def sizes(self) -> Mapping[str, int]:
        """One task."""
        return {TASK: self.opening.n_samples}

    @property
    def blocks(self) -> Mapping[str, int]:
        """As many in every source."""
        return dict.fromkeys(self.opening.sources, self.opening.n_blocks)

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Evaluation | Failure]:
        """Yield what depends on the recipe alone."""
        for job in jobs:
            random = np.random.default_rng(int(job.recipe.recipe_id, 16))
            time.sleep(self.opening.seconds * (1 + self.opening.spread * random.uniform(-1, 1)))
            right = tuple((random.random(self.opening.n_samples) < random.uniform(0.3, 0.7)).astype(float).tolist())
            mean = sum(right) / len(right)
            score = TaskScore(score=mean, ungated=mean, japanese=1.0, per_sample=right, n=len(right))
            seconds = {"merge": 0.0, "generate": self.opening.seconds, "score": 0.0}
            yield Evaluation(scores={TASK: score}, fitness=mean, seconds=seconds, tokens=100 * len(right))

    def close(self) -> None:
        """Nothing is held."""
