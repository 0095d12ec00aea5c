"""Workers whose candidates take a known time, without a model, for worker_scaling.py; messages have their real size."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evovlm.evaluation.workers.jobs import Job, WorkerSettings
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore

TASK = "word_problems_ja"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCost:
    """Opens workers that take `seconds` per candidate for `n_samples` with an idle processor, as with a GPU.

    With `spread`, a candidate's cost differs by up to that share, uniformly, depending on its recipe.
    """

    seconds: float
    n_samples: int
    n_blocks: int
    sources: tuple[str, ...]
    spread: float = 0.0

    def open(self, settings: WorkerSettings) -> "KnownCostWorkers":  # noqa: ARG002 - costs the same everywhere
        """See Opening."""
        return KnownCostWorkers(self)


class KnownCostWorkers:
    """See KnownCost."""

    warnings = ()

    def __init__(self, opening: KnownCost) -> None:
        self.opening = opening

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the size of the only task."""
        return {TASK: self.opening.n_samples}

    @property
    def blocks(self) -> Mapping[str, int]:
        """Return the same number for every source."""
        return dict.fromkeys(self.opening.sources, self.opening.n_blocks)

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Evaluation | Failure]:
        """Yield outcomes that depend only on the recipe."""
        for job in jobs:
            random = np.random.default_rng(int(job.recipe.recipe_id, 16))
            time.sleep(self.opening.seconds * (1 + self.opening.spread * random.uniform(-1, 1)))
            right = tuple((random.random(self.opening.n_samples) < random.uniform(0.3, 0.7)).astype(float).tolist())
            mean = sum(right) / len(right)
            score = TaskScore(score=mean, ungated=mean, japanese=1.0, per_sample=right, n=len(right))
            seconds = {"merge": 0.0, "generate": self.opening.seconds, "score": 0.0}
            yield Evaluation(scores={TASK: score}, fitness=mean, seconds=seconds, tokens=100 * len(right))

    def close(self) -> None:
        """Do nothing."""
