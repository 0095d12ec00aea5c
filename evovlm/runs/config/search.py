"""What the configs of all searches have in common, whatever kind of space they search."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import yaml
from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.objective import Objective
from evovlm.recipes.documents import Document
from evovlm.recipes.kinds import Recipe, Template
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.space import Space
from evovlm.runs.config.execution import EXECUTION_KEYS, ExecutionConfig, LogSection
from evovlm.runs.config.objective import ObjectiveSection, Parents, result_name
from evovlm.runs.config.sections import (
    CALLS_FILE,
    MOST,
    BudgetSection,
    GuardSection,
    JudgeSection,
    NamedTask,
    RacingSection,
    ReportSection,
    TaskSection,
    known_row,
    task_of,
)
from evovlm.runs.config.start import StartSection
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.optimizer import DEFAULT_SIGMA, Optimizer, OptimizerFactory, Start, default_population
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.metrics.judges import JUDGES

SMALLEST_POPULATION = 4
LARGEST_POPULATION = 100_000
RESCORED_AFTER_RACES = 3
LEAST_GENERATIONS = 5
"""With fewer generations, a search is hardly better than its first, random one."""
_NO_GAP = 1e-6

Winner = Literal["best", "mean", "snapshot"]


class OptimizerSection(Document):
    """`optimizer:` how the search moves; `sigma` is the first step size in the unit cube."""

    kind: str = "cma"
    sigma: float = Field(default=DEFAULT_SIGMA, gt=0, le=1)
    population: int | None = Field(default=None, le=LARGEST_POPULATION)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known_row(kind, OPTIMIZERS, "optimizer")

    @field_validator("population")
    @classmethod
    def _large_enough(cls, population: int | None) -> int | None:
        if population is not None and population < SMALLEST_POPULATION:
            raise PydanticCustomError(
                "population",
                "should be {least} or more: fewer candidates cannot be ranked into a direction",
                {"least": SMALLEST_POPULATION},
            )
        return population

    @property
    def factory(self) -> OptimizerFactory:
        """The class that builds it."""
        return OPTIMIZERS[self.kind]

    @property
    def keeps_population(self) -> bool:
        """Whether all generations have the same number of candidates."""
        return self.factory.keeps_population


class SearchedSection(Document):
    """`space:` of any search; further keys depend on the kind of search."""

    kind: str


class SearchConfig(ExecutionConfig):
    """A whole search.

    `batch`: the number of samples of each task that are drawn anew for each generation, the same for all its candidates
    (None: all samples). `validation`: the number of samples, the last of each task, that candidates are not scored on;
    the distribution's mean is evaluated on them before each generation and at the end. `racing`: candidates are scored
    on as few samples as it takes to rank them. `rescore`: the number of best candidates that are scored again in full
    at the end, as the mean is (None: 3 after races, else 0). `winner`: the best candidate (where some were scored
    again, the best of them and the mean), the last mean, or the mean that did best on the validation samples
    (`snapshot`). `start`: the recipe that the search begins at. `judge`: the model that scores the answers to tasks
    whose metric asks one.
    """

    later: ClassVar[frozenset[str]] = frozenset({"judge"})

    format: Literal[1]
    kind: Literal["evolve"]
    seed: int = 0
    merge: Document
    space: SearchedSection
    start: StartSection | None = None
    optimizer: OptimizerSection = OptimizerSection()
    budget: BudgetSection
    tasks: list[TaskSection] = Field(min_length=1)
    report: list[ReportSection] = Field(default=[])
    guard: GuardSection | None = None
    batch: int | None = Field(default=None, ge=1, le=MOST)
    racing: RacingSection | None = None
    validation: int | None = Field(default=None, ge=1, le=MOST, validate_default=True)
    rescore: int | None = Field(default=None, ge=0, le=MOST)
    winner: Winner = Field(default="best", validate_default=True)
    device: str = "auto"
    objective: ObjectiveSection = ObjectiveSection()
    log: LogSection = LogSection()
    judge: JudgeSection | None = Field(default=None, validate_default=True)

    @field_validator("judge")
    @classmethod
    def _is_asked_once(cls, judge: JudgeSection | None, info: ValidationInfo) -> JudgeSection | None:
        tasks = [task_of(section.name, info) for section in info.data.get("tasks", [])]
        judged = next((task.name for task in tasks if task is not None and task.scoring.metric in JUDGES), None)
        if judged is None:
            return judge
        if judge is None:
            raise PydanticCustomError(
                "judge", "is missing: a judge scores the task {task}; write judge: {{model: NAME}}", {"task": judged}
            )
        several = any(info.data.get(key) not in (None, 1) for key in ("workers", "ray", "time_limit_s"))
        if several:
            raise PydanticCustomError(
                "judge", "counts its calls in one process; leave workers, ray and time_limit_s out"
            )
        return judge

    @field_validator("tasks", "report")
    @classmethod
    def _tasks_differ(cls, sections: list[NamedTask], info: ValidationInfo) -> list[NamedTask]:
        # In results, a user's own task has the name that its file gives it.
        known = [(task_of(section.name, info), section.name) for section in sections]
        names = [written if task is None else task.name for task, written in known]
        if len(set(names)) < len(names):
            raise PydanticCustomError("tasks", "a task is named twice; give it one entry")
        weights = [section.weight for section in sections if isinstance(section, TaskSection)]
        if weights and not any(weights):
            raise PydanticCustomError("tasks", "every weight is 0, so that the search does not have a goal")
        return sections

    @field_validator("batch", "racing", "validation")
    @classmethod
    def _tasks_have_parts(cls, value: object, info: ValidationInfo) -> object:
        tasks: list[TaskSection] = info.data.get("tasks", [])
        whole = next((task.name for task in tasks if is_harness_name(task.name)), None)
        if value is not None and whole is not None:
            raise PydanticCustomError(
                "parts",
                "scores candidates on parts of a task, and {task} is one of the harness, which asks a task as a whole; "
                "leave `{key}` out, and give the task a `limit`",
                {"task": whole, "key": str(info.field_name)},
            )
        return value

    @field_validator("validation")
    @classmethod
    def _generations_can_be_compared(cls, validation: int | None, info: ValidationInfo) -> int | None:
        budget: BudgetSection | None = info.data.get("budget")
        others = _on_other_samples(info)
        if budget is not None and budget.patience is not None and others and validation is None:
            raise PydanticCustomError(
                "validation",
                "is missing: budget.patience compares generations, whose candidates are scored on different samples "
                "(`{others}`); set it, or leave patience out",
                {"others": others},
            )
        return validation

    @field_validator("winner")
    @classmethod
    def _can_be_compared(cls, winner: Winner, info: ValidationInfo) -> Winner:
        if winner == "snapshot" and info.data.get("validation") is None:
            raise PydanticCustomError("winner", "is the mean that did best on the validation samples; set `validation`")
        others = _on_other_samples(info)
        if winner == "best" and others and not _rescored(info.data.get("rescore"), racing=others == "racing"):
            raise PydanticCustomError(
                "winner",
                "candidates of two generations are scored on different samples (`{others}`); "
                "take snapshot or mean, or set `rescore`",
                {"others": others},
            )
        return winner

    @field_validator("objective")
    @classmethod
    def _suits_the_tasks(cls, objective: ObjectiveSection, info: ValidationInfo) -> ObjectiveSection:
        objective.check(info)
        return objective

    @property
    def rescored(self) -> int:
        """The number of best candidates that are scored again in full."""
        return _rescored(self.rescore, racing=self.racing is not None)

    def notes_for(self, space: Space) -> tuple[str, ...]:
        """Return settings that work, but may not do what the user expects in `space`, which is this config's."""
        return (*self._start_notes(space), *self._budget_notes(space), *self._goal_notes())

    def _goal_notes(self) -> tuple[str, ...]:
        if not self.objective.pareto or self.optimizer.factory.takes_goals:
            return ()
        seeking = ", ".join(name for name, row in OPTIMIZERS.items() if row.takes_goals)
        return (
            f"objective.pareto: {self.optimizer.kind} uses only the fitness, so that the front is only what it happens "
            f"to find; optimizers that search for a front: {seeking} (optimizer.kind).",
        )

    @property
    def stages(self) -> Mapping[str, "SearchConfig"]:
        """The searches that are carried out one after the other, by the name of their stage: this one, without a name.

        A hybrid's config has two.
        """
        return {"": self}

    def stage(self, name: str, *, after: Recipe | None = None) -> "SearchConfig":  # noqa: ARG002 - of hybrids
        """Return the config of a stage; `after` is the recipe that the stage before it has found."""
        return self.stages[name]

    @property
    @abstractmethod
    def method(self) -> str:
        """How candidates are merged, in a few words."""

    @abstractmethod
    def template(self, *, relative_to: Path | None) -> Template:
        """Return what the search keeps fixed of every recipe."""

    @abstractmethod
    def resolved_merge(self, *, relative_to: Path | None) -> Document:
        """Return `merge` with its host named and every path absolute."""

    @abstractmethod
    def least_blocks(self, *, relative_to: Path | None) -> Mapping[str, int]:
        """Return by source the number of blocks that it has at least, as far as is known without fetching it."""

    @abstractmethod
    def whole_space(self, blocks: Mapping[str, int]) -> Space:
        """Return the space of a resolved search, for sources that have as many blocks, by name; `start` is not used."""

    @abstractmethod
    def baseline(self) -> ParameterMerge | None:
        """Return the merge of a resolved search's sources that was not optimised; None where they do not have one."""

    @abstractmethod
    def source_alone(self, source: str) -> ModelRef | ParameterMerge:
        """Return the model of a resolved search in which a source replaces the host's language model."""

    def variants(self) -> Iterable[Template]:
        """Return the templates, other than its own, whose recipes a resolved search may propose."""
        return ()

    def space_for(self, blocks: Mapping[str, int]) -> Space:
        """Return the space of a resolved search, for sources that have as many blocks, by name.

        The search starts at the space's `initial`, which is that of `start` where one is given. Raises ConfigError for
        a start that is not near to any point of the space.
        """
        space = self.whole_space(blocks)
        if self.start is None:
            return space
        try:
            return space.starting_at(self.start.recipe_in(space))
        except ConfigError as error:
            raise ConfigError(f"start: {error}") from error

    def _start_notes(self, space: Space) -> tuple[str, ...]:
        """Return where the search does not start exactly at the recipe asked for."""
        if self.start is None:
            return ()
        _, gap = space.nearest(self.start.recipe_in(space))
        if gap.size < _NO_GAP:
            return ()
        return (
            f"start: this space holds the recipe to within {gap.size:.3g}, and the search starts at the nearest; "
            f"furthest is {gap.place}: {gap.given:g} there, {gap.taken:g} here.",
        )

    def _budget_notes(self, space: Space) -> tuple[str, ...]:
        """Return whether the budget is rounded to whole generations, and whether there are too few of them."""
        candidates, population = self.budget.candidates, self.population(dim=space.dim)
        generations = self.budget.generations(population=population)
        if candidates is None or generations is None or not self.optimizer.keeps_population:
            return ()
        whole, notes = generations * population, []
        if whole < candidates:
            notes.append(
                f"budget.candidates: {candidates} is rounded down to {whole}, whole generations of {population}."
            )
        if generations < LEAST_GENERATIONS:
            notes.append(
                f"budget.candidates: {whole} candidates in generations of {population} are too few to evolve. Set it "
                f"to {LEAST_GENERATIONS * population} ({LEAST_GENERATIONS} generations) or more."
            )
        return tuple(notes)

    def _limit(self, task: TaskSection) -> int | None:
        """Return how many samples of a task are asked: at most as many as a person looks at."""
        human = self.objective.human
        return task.limit if human is None else min(human.samples, task.limit or human.samples)

    def task_choices(self, *, folder: Path | None = None) -> tuple[TaskChoice, ...]:
        """Return the tasks of a resolved search, as they are opened, in their order.

        Calls to a judge are counted in the run's `folder`.
        """
        counted = None if folder is None else folder / CALLS_FILE
        judge = None if self.judge is None else self.judge.choice(budget=self.judge_calls, calls_file=counted)
        return tuple(
            TaskChoice(
                name=task.name,
                judge=judge,
                limit=self._limit(task),
                weight=task.weight,
                data=Path(task.data) if task.data is not None else None,
                thinking="always" if self.measures_thinking(task) else "never",
                **task.settings,
            )
            for task in self.tasks
        )

    def measures_thinking(self, task: NamedTask) -> bool:
        """Return whether the lengths of a task's answers are asked for, in a resolved search."""
        return task.reasoning is not None or bool(self.objective.measured & {task.name, result_name(task.name)})

    def resolved(self, *, relative_to: Path | None) -> Self:
        """Return the same search with its host named and every path absolute, so that it holds from any folder.

        Relative paths start at `relative_to` (None: the current folder). Raises ConfigError when the host is unclear.
        """
        folder = relative_to or Path()
        tasks = [task.resolved(folder) for task in self.tasks]
        names = {old.name: result_name(new.name) for old, new in zip(self.tasks, tasks, strict=True)}
        sections: dict[str, object] = {
            "tasks": tasks,
            "objective": self.objective.renamed(names),
            "report": [task.resolved(folder) for task in self.report],
            "guard": None if self.guard is None else self.guard.resolved(folder),
            "start": None if self.start is None else self.start.resolved(folder),
        }
        return self.model_copy(update={"merge": self.resolved_merge(relative_to=relative_to), **sections})

    def guarded(self, *, near_pictures: str | None, threshold: float | None) -> Self:
        """Return the same search with another guard; None keeps what `guard:` says.

        Raises ConfigError for a threshold without a model.
        """
        if near_pictures is None and threshold is None:
            return self
        asked = {"near_pictures": near_pictures, "threshold": threshold}
        said = {} if self.guard is None else self.guard.model_dump()
        said |= {name: value for name, value in asked.items() if value is not None}
        if "near_pictures" not in said:
            raise ConfigError("a threshold for near pictures needs a model: --near-pictures, or guard.near_pictures.")
        return self.model_copy(update={"guard": GuardSection(**said)})

    def goal(self, parents: Parents) -> Objective:
        """Return the objective of a resolved search, given the scores of its `parents`."""
        return self.objective.objective({result_name(task.name): task.weight for task in self.tasks}, parents=parents)

    def population(self, *, dim: int) -> int:
        """Return the candidates of a generation. Raises ConfigError when the budget is smaller than one generation."""
        population = self.optimizer.population or default_population(dim)
        if self.budget.candidates is not None and self.budget.candidates < population:
            raise ConfigError(
                f"budget.candidates is {self.budget.candidates}, but one generation of this space ({dim} genes) has "
                f"{population} candidates.\n    Raise the budget, or set optimizer.population lower "
                f"({SMALLEST_POPULATION} or more)."
            )
        return population

    def new_optimizer(self, space: Space) -> Optimizer:
        """Return the optimizer in its initial state. Raises ConfigError if it needs a package that is not installed."""
        start = Start(
            initial=space.initial,
            seed=self.seed,
            population=self.optimizer.population,
            sigma=self.optimizer.sigma,
            levels=space.levels,
        )
        return self.optimizer.factory(start)

    def as_mapping(self) -> Mapping[str, object]:
        """Return the config as plain values, with every default, without the keys that say how it is carried out."""
        return dict(self.model_dump(mode="json", by_alias=True, exclude={*EXECUTION_KEYS, "log"}))

    def logged(self, *trackers: str) -> Self:
        """Return the same search with further trackers. Raises ConfigError for an unknown one."""
        log = self.log
        for tracker in trackers:
            log = log.besides(tracker)
        return self.model_copy(update={"log": log})

    def to_yaml(self) -> str:
        """Return the config as YAML text that `load_config` reads back."""
        text: str = yaml.safe_dump(dict(self.as_mapping()), sort_keys=False, allow_unicode=True)
        return text


def _on_other_samples(info: ValidationInfo) -> str | None:
    """Return the key because of which generations are scored on different samples; None where all see the same."""
    return next((key for key in ("racing", "batch") if info.data.get(key) is not None), None)


def _rescored(asked: int | None, *, racing: bool) -> int:
    return (RESCORED_AFTER_RACES if racing else 0) if asked is None else asked
