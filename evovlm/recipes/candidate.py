"""What a search proposes and what comes back: candidates, their evaluations, and failures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.recipes.kinds import Recipe
from evovlm.recipes.low_score import LowScore

Genome: TypeAlias = npt.NDArray[np.float64]
"""A point of the unit cube, shape (dim,), float64."""

Levels: TypeAlias = npt.NDArray[np.int64]
"""Number of values of each gene, shape (dim,); 0 for a gene that is any number in [0, 1].

A gene with k >= 2 levels means the one of k equal intervals of [0, 1] in which it lies (a boundary belongs to the
lower interval): with k = 2, above one half or not.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A genome, the recipe it decodes to, and its place in the search (both indices count from 0).

    `index` counts candidates over the whole search.
    """

    genome: Genome
    recipe: Recipe
    generation: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """How well a model did on one task; every number is in [0, 1], higher is better.

    `score` counts an answer only if it passes the language gate; `ungated` drops the gate; `japanese` is the share of
    answers in Japanese; `per_sample` holds the scores of the `n` samples in the task's order. `unscored` counts the
    samples without an answer to score, because the text has none or the model gave none; they score 0. `rows` says
    which of the task's samples they are, in the order of `per_sample`; None for all, in the task's order. `low`
    explains a score of almost 0.
    """

    score: float
    ungated: float
    japanese: float
    per_sample: tuple[float, ...]
    n: int
    unscored: int = 0
    rows: tuple[int, ...] | None = None
    low: LowScore | None = None

    def figures(self) -> dict[str, object]:
        """Return the means and the number of samples as plain values."""
        return {"score": self.score, "ungated": self.ungated, "japanese": self.japanese, "n": self.n}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A candidate's `fitness` (higher is better), its `scores` by task, and what it cost.

    `seconds` holds wall-clock time by stage; `tokens` counts generated tokens. `goals` holds the value
    of each goal (higher is better) where a search has several; their trade-off is a Pareto set.
    """

    scores: Mapping[str, TaskScore]
    fitness: float
    seconds: Mapping[str, float]
    tokens: int
    goals: tuple[float, ...] = ()

    @property
    def evaluation(self) -> "Evaluation":
        """Itself; None for a failure."""
        return self

    @property
    def failure(self) -> None:
        """None: it did not fail."""
        return None

    @property
    def n_samples(self) -> int:
        """The number of samples it was scored on, over all tasks; a race ends before all of them."""
        return sum(score.n for score in self.scores.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a candidate has no evaluation: a short machine-readable `kind` and a `reason` for people."""

    reason: str
    kind: str

    @property
    def evaluation(self) -> None:
        """None: it was not scored."""
        return None

    @property
    def failure(self) -> "Failure":
        """Itself; None for an evaluation."""
        return self


Outcome: TypeAlias = Evaluation | Failure
"""What comes back for a candidate."""
