"""Everything that the page shows, as values: built from run folders, rendered by a template that decides nothing.

Texts of models and data stand in it as they are; whoever renders it escapes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evovlm.evaluation.comparison import Comparison
from evovlm.evaluation.intervals import Interval
from evovlm.recipes.layer_path import LayerPath

Role = Literal["winner", "parent", "baseline", "stage"]
"""What a model is to a run: its winner, one of its sources, the merge of equal weights, a hybrid's first stage."""

RIGHT_FROM = 0.5
"""From this score on an answer counts as right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that went into a run: its `part` (`base`, `sources.ja`), what it is called, its licence.

    `at_hand` says whether its folder is still there.
    """

    part: str
    text: str
    licence: str
    at_hand: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A generation: of its `n` evaluated candidates the best, mean, lowest and highest tenth; all fitnesses in [0, 1].

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
    """A candidate: `tokens` it generated, the `samples` it was scored on, the score of each task; or why it failed."""

    index: int
    generation: int
    recipe_id: str
    fitness: float | None
    tokens: int
    samples: int
    scores: Mapping[str, float]
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What racing saved: the samples that candidates were scored on, of those that all of them would have been."""

    used: int
    whole: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Several goals: their names, each candidate's values in that order, and which candidates nobody dominates."""

    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    front: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a search went. `snapshots` are the mean's fitnesses on the validation samples, by generation.

    `replayed` says whether sigma and condition are known; `candidates` are all of them, by index.
    """

    points: tuple[Point, ...]
    candidates: tuple[CandidateRow, ...]
    snapshots: tuple[tuple[int, float], ...]
    mean_fitness: float | None
    replayed: bool
    savings: Savings | None
    goals: Goals | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One parameter of the winner: for each source a value per unit, with the value of the equal-weights merge.

    `knots` are the units whose numbers were searched, where those between are interpolated.
    """

    parameter: str
    units: tuple[str, ...]
    by_source: Mapping[str, tuple[float, ...]]
    equal: float
    knots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds by phase and tokens. `merged_bytes` is the size of what was merged, None where it is not known."""

    seconds: Mapping[str, float]
    tokens: int
    merges: int
    merged_bytes: int | None

    @property
    def tokens_per_s(self) -> float | None:
        """Generated tokens per second of generation."""
        return self.tokens / self.seconds["generate"] if self.seconds.get("generate") else None

    @property
    def merged_gb_per_s(self) -> float | None:
        """Bytes of merged weights per second of merging, in 10^9."""
        if self.merged_bytes is None or not self.seconds.get("merge"):
            return None
        return self.merged_bytes * self.merges / self.seconds["merge"] / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One search: the whole run, or a stage of a hybrid (`name`: `ps` or `path`; empty for a whole run).

    `winner` says which entry won (best, mean, snapshot), None while there is none. A search of parameters has
    `numbers`, one through layers a `path`. `said` is what it was asked, in a few words by key.
    """

    name: str
    finished: bool
    generations: int
    budget: int | None
    winner: str | None
    winner_fitness: float | None
    recipe_id: str | None
    said: Mapping[str, str]
    course: Course
    numbers: tuple[Numbers, ...]
    path: LayerPath | None
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A model on the report split of a task. `subsets` are its scores on tagged samples.

    `against` is the winner compared with it, None for the winner itself.
    """

    name: str
    role: Role
    score: float
    interval: Interval
    ungated: float
    japanese: float
    unscored: int
    subsets: Mapping[str, float]
    tokens: int
    seconds: float
    against: Comparison | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCell:
    """What one model answered; `passed` is whether it was in Japanese or had no need to be."""

    text: str
    score: float
    extracted: str | None
    passed: bool
    unscored: str | None

    @property
    def right(self) -> bool:
        """Whether it counts as right."""
        return self.score >= RIGHT_FROM


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """A sample with everyone's answers, in the order of `AnswerTable.names`. `picture` is a data URI."""

    id: str
    question: str
    references: tuple[str, ...]
    choices: tuple[str, ...]
    tags: tuple[str, ...]
    pictures: tuple[str, ...]
    cells: tuple[AnswerCell, ...]
    who: Literal["child", "parent", "both", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often a model said one name where another was right: (right, said, times), the most frequent first."""

    name: str
    pairs: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """A task of the report: who did how well, and every answer.

    `has_winner` is whether the winner is among `standings`; `left_out` counts samples beyond what a page can hold,
    `cut` answers that were shortened.
    """

    name: str
    measured: str
    gate: str | None
    n: int
    binary: bool
    has_winner: bool
    standings: tuple[Standing, ...]
    names: tuple[str, ...]
    roles: tuple[Role, ...]
    rows: tuple[AnswerRow, ...]
    tags: tuple[str, ...]
    confusions: tuple[Confusion, ...]
    left_out: int
    cut: int
    without_pictures: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """A run as the page shows it. `unscored` are the names of models whose answers are not there yet."""

    folder: str
    title: str
    seed: int
    finished: bool
    tasks: tuple[str, ...]
    models: tuple[Model, ...]
    licence: str | None
    licence_reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    failed: int
    commands: tuple[str, ...]
    stages: tuple[Stage, ...]
    reports: tuple[TaskReport, ...]
    unscored: tuple[str, ...]
    score_command: str

    @property
    def last(self) -> Stage:
        """The stage that the run has come to."""
        return self.stages[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """The winners of two runs compared on a task's report split."""

    task: str
    first: str
    second: str
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Runs that differ in their seed alone: the mean of best-so-far by generated tokens, with its 95 % interval.

    `low` and `high` are those of the mean over the runs; equal to it for one run.
    """

    label: str
    runs: tuple[str, ...]
    tokens: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsContent:
    """Several runs side by side; `labels` are short names, in the order of `runs`.

    `same_tasks` is whether all searched on the same samples, so that their fitnesses may be compared.
    """

    runs: tuple[RunContent, ...]
    labels: tuple[str, ...]
    bands: tuple[Band, ...]
    pairs: tuple[RunPair, ...]
    same_tasks: bool
