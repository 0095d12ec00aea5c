"""How a search went, as values: what the page shows of its course."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.evaluation.objective import Constraint
from evovlm.evaluation.preferences import Agreement, Strength
from evovlm.runs.findings import Rescored

MOST_CANDIDATES = 50
"""The most candidates that a page lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A generation: the best, mean, first and last decile of its `n` evaluated candidates' fitnesses.

    `best_so_far` and `tokens` (generated) count from the first generation on. `sigma` and `condition` are those of the
    distribution after it, None where the optimizer has none or could not be replayed.
    """

    generation: int
    n: int
    failed: int
    best: float
    best_so_far: float
    mean: float
    low: float
    high: float
    tokens: int
    sigma: float | None
    condition: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """A candidate: `tokens` it generated, the `samples` it was scored on, the score of each task; or why it failed.

    `breaks` says whether it violates a constraint. `genome` are its numbers, `seconds` what it took by phase; `recipe`
    is the text of its recipe, None where the page would become too large. `answers` are the questions and answers that
    people were shown.
    """

    index: int
    generation: int
    recipe_id: str
    fitness: float | None
    tokens: int
    samples: int
    scores: Mapping[str, float]
    failure: str | None
    breaks: bool
    genome: str
    seconds: Mapping[str, float]
    recipe: str | None
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What racing saved: the samples that candidates were scored on, out of those without races."""

    used: int
    whole: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRow:
    """A candidate on the Pareto front, with its values in the goals' order."""

    index: int
    recipe_id: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Several goals: their names, the candidates on the Pareto front, and the values of all `others`.

    `knee` is the index in the front of the candidate that gives up least of each goal.
    """

    names: tuple[str, ...]
    front: tuple[FrontRow, ...]
    knee: int
    others: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRow:
    """What a source alone scored on the search's samples, by task, if a constraint refers to it."""

    source: str
    scores: Mapping[str, float]
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a search went. `snapshots` are the mean's fitnesses on the validation samples, by generation.

    `replayed` says whether sigma and condition are known; `candidates` are all of them, by index. `stopped_by` is the
    key of the budget that ended the search, `bound` what that budget was. `rescored` are the best as they scored again,
    on all samples. `rated` says, by recipe, which candidates people preferred, `agreements` how far two people agree.
    """

    points: tuple[Point, ...]
    candidates: tuple[CandidateRow, ...]
    snapshots: tuple[tuple[int, float], ...]
    mean_fitness: float | None
    replayed: bool
    savings: Savings | None
    goals: Goals | None
    constraints: tuple[Constraint, ...]
    parents: tuple[ParentRow, ...]
    rescored: tuple[Rescored, ...]
    rated: Mapping[str, Strength]
    agreements: Mapping[tuple[str, str], Agreement]
    stopped_by: str | None
    bound: float | None

    @property
    def infeasible(self) -> int:
        """The number of candidates that violate a constraint."""
        return sum(row.breaks for row in self.candidates)
