"""`objective:` of a search: how the tasks' scores become a fitness, its constraints, and whether tasks are traded off.

objective:
  combine: mean                                                # mean | worst | geometric
  constraints:
    - {task: word_problems_ja, measure: japanese, at_least: 0.95}
    - {task: word_problems_en, not_below: math, by: 0.05}      # of what the source `math` itself scores
    - {task: word_problems_ja, measure: tokens, at_most: 400}  # of an answer, in the mean
  pareto: true                                                 # the result includes the non-dominated candidates
  goals:                                                       # further ones: what is saved of 400 tokens
    - {task: word_problems_ja, measure: thought_tokens, at_most: 400}

The fitness of a candidate that violates a constraint is minus its total violation: below every feasible candidate. A
task of weight 0 is scored for a constraint, or to be looked at; it is not a goal.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, Self

from pydantic import Field, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.evaluation.objective import LENGTHS, THINKING, Combine, Constraint, Goal, Measure, Objective
from evovlm.recipes.documents import Document
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.config.sections import MOST, RacingSection, TaskSection, task_of
from evovlm.runs.folder.entries import Parent
from evovlm.runs.samples import INFORMATIVE
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.own.task_file import is_own_task

Parents = Mapping[str, Parent]
"""The scores of the source models themselves on all of the search's samples, by source."""


class _Merge(Protocol):
    """`merge:` of any search."""

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of its sources."""
        ...


class GoalSection(Document):
    """One of `goals:`: a task's measure; of a length, what is saved of `at_most`."""

    task: str
    measure: Measure = "score"
    at_most: float | None = Field(default=None, gt=0, le=MOST)

    @model_validator(mode="after")
    def _has_its_bound(self) -> Self:
        if (self.measure in LENGTHS) != (self.at_most is not None):
            raise PydanticCustomError(
                "goal", "lengths (tokens, thought_tokens) need at_most, and no other measure does"
            )
        return self


class ConstraintSection(Document):
    """One of `constraints:`: a task's measure is `at_least` a number, or at most `by` below that of `not_below`.

    A length is `at_most` a number.
    """

    later: ClassVar[frozenset[str]] = frozenset({"at_most"})

    task: str
    measure: Measure = "score"
    at_least: float | None = Field(default=None, ge=0, le=1)
    not_below: str | None = None
    by: float = Field(default=0.0, ge=0, le=1)
    at_most: float | None = Field(default=None, gt=0, le=MOST)

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if self.measure in LENGTHS and (self.at_most is None or self.at_least is not None or self.not_below):
            raise PydanticCustomError(
                "constraint", "{measure} needs at_most (a number) alone", {"measure": self.measure}
            )
        if self.measure not in LENGTHS and self.at_most is not None:
            raise PydanticCustomError("constraint", "at_most: bounds tokens and thought_tokens only; write at_least")
        if self.at_most is None and (self.at_least is None) == (self.not_below is None):
            raise PydanticCustomError("constraint", "needs one of at_least (a number) and not_below (a source's name)")
        if self.not_below is None and self.by:
            raise PydanticCustomError("constraint", "by: says how far below a source is allowed; set not_below")
        return self

    @property
    def is_paired(self) -> bool:
        """Whether it can be compared with a parent sample by sample."""
        return self.not_below is not None and self.measure == "score"


class HumanSection(Document):
    """`human:` a person chooses the best of each generation's answers to the first `samples` of the only task."""

    task: str
    samples: int = Field(default=8, ge=1, le=1000)


class ObjectiveSection(Document):
    """The whole of `objective:`."""

    later: ClassVar[frozenset[str]] = frozenset({"goals", "human"})

    combine: Combine = "mean"
    constraints: list[ConstraintSection] = Field(default=[])
    pareto: bool = False
    goals: list[GoalSection] = Field(default=[])
    human: HumanSection | None = None

    def check(self, info: ValidationInfo) -> None:
        """Raise what pydantic collects where the section does not suit the rest of the config, in `info` so far."""
        tasks: Sequence[TaskSection] | None = info.data.get("tasks")
        if tasks is None:
            return
        if self.human is not None:
            self._check_human(self.human, tasks, info)
        self._check_combination(tasks, info)
        self._check_task_names(tasks, info)
        for index, constraint in enumerate(self.constraints):
            _check_constraint(constraint, ("constraints", index), info)

    def _check_combination(self, tasks: Sequence[TaskSection], info: ValidationInfo) -> None:
        """Raise what pydantic collects where scores cannot be combined, or traded off, in this way."""
        goals = [task for task in tasks if task.weight > 0]
        if self.combine == "worst" and len({task.weight for task in goals}) > 1:
            raise _at(("combine",), "worst takes the lowest score, whatever the weights: give 1 or 0", self.combine)
        if self.pareto and len(goals) + len(self.goals) < 2:
            raise _at(
                ("pareto",), "trades several tasks off; name two or more with a weight above 0, or `goals`", self.pareto
            )
        if self.goals and not self.pareto:
            raise _at(("goals",), "are those of a front; set `pareto: true`", self.goals)
        others = next((key for key in ("racing", "batch") if info.data.get(key) is not None), None)
        if self.pareto and others:
            reason = f"not all candidates are scored on the same samples (`{others}`), and a front compares them all"
            raise _at(("pareto",), f"{reason}; leave `{others}` out", True)

    def _check_task_names(self, tasks: Sequence[TaskSection], info: ValidationInfo) -> None:
        """Raise what pydantic collects where a constraint or a goal is about something that is not measured."""
        found = {task.name: task_of(task.name, info) for task in tasks}
        names = set(found) | {task.name for task in found.values() if task is not None}
        # The name that a file gives its task was checked when the config was first read, in its folder.
        is_known = not any(task is None and is_own_task(name) for name, task in found.items())
        placed: list[tuple[tuple[str, int], ConstraintSection | GoalSection]] = [
            *((("constraints", number), each) for number, each in enumerate(self.constraints)),
            *((("goals", number), each) for number, each in enumerate(self.goals)),
        ]
        for place, each in placed:
            if each.task not in names and is_known:
                raise _at(
                    (*place, "task"),
                    "is not scored; name it among the tasks (with weight 0, if it is not a goal)"
                    + did_you_mean(each.task, names),
                    each.task,
                )
            if each.measure in THINKING and is_harness_name(each.task):
                raise _at((*place, "measure"), "is not measured for a task of the harness", each.measure)

    def _check_human(self, human: HumanSection, tasks: Sequence[TaskSection], info: ValidationInfo) -> None:
        """Raise what pydantic collects where a person cannot choose."""
        only = task_of(tasks[0].name, info)
        # The name that a file gives its task was checked when the config was first read, in its folder.
        is_known = only is not None or not is_own_task(tasks[0].name)
        names = {tasks[0].name, tasks[0].name if only is None else only.name}
        if len(tasks) > 1 or (human.task not in names and is_known):
            raise _at(("human", "task"), "has to be the only one of the tasks", human.task)
        if is_harness_name(tasks[0].name):
            raise _at(("human", "task"), "is one of the harness, whose answers are not kept", human.task)
        others = [key for key in ("racing", "batch", "validation", "rescore") if info.data.get(key)]
        others += [f"objective.{key}" for key in ("pareto", "constraints", "goals") if getattr(self, key)]
        if others:
            raise _at(("human",), f"a person compares one generation's answers; leave `{others[0]}` out", None)
        if info.data.get("winner") not in (None, "mean"):
            reason = "choices compare the candidates of one generation only, so that none of them is the best"
            raise _at(("human",), f"{reason}; set `winner: mean`", None)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """Return the same with other names of tasks."""
        task = None if self.human is None else names.get(self.human.task, self.human.task)
        human = None if self.human is None else self.human.model_copy(update={"task": task})
        constraints = [each.model_copy(update={"task": names.get(each.task, each.task)}) for each in self.constraints]
        goals = [each.model_copy(update={"task": names.get(each.task, each.task)}) for each in self.goals]
        return self.model_copy(update={"constraints": constraints, "goals": goals, "human": human})

    @property
    def measured(self) -> frozenset[str]:
        """The tasks whose lengths of answers are measured."""
        bounded = {each.task for each in self.constraints if each.measure in THINKING}
        return frozenset(bounded | {each.task for each in self.goals if each.measure in THINKING})

    @property
    def parents(self) -> Mapping[str, tuple[str, ...]]:
        """The sources whose own scores are bounds, each with the tasks that it is scored on."""
        found: dict[str, dict[str, None]] = {}
        for each in self.constraints:
            if each.not_below is not None:
                found.setdefault(each.not_below, {})[each.task] = None
        return {source: tuple(tasks) for source, tasks in found.items()}

    def objective(self, weights: Mapping[str, float], *, parents: Parents) -> Objective:
        """Return the objective over tasks of these `weights`, by their names in results.

        Raises ConfigError when a parent's score is not among `parents`.
        """
        constraints = tuple(_constraint(each, parents) for each in self.constraints)
        further = tuple(Goal(task=each.task, measure=each.measure, at_most=each.at_most) for each in self.goals)
        return Objective(
            weights=weights,
            combine=self.combine,
            constraints=constraints,
            pareto=self.pareto,
            further=further,
            human=self.human is not None,
        )


def result_name(name: str) -> str:
    """Return the name of a task in results: a user's own task has the name that its file gives it."""
    return name if is_harness_name(name) else get_task(name).name


def _constraint(section: ConstraintSection, parents: Parents) -> Constraint:
    if section.at_most is not None:
        return Constraint(task=section.task, measure=section.measure, at_most=section.at_most)
    if section.not_below is None:
        return Constraint(task=section.task, measure=section.measure, at_least=section.at_least or 0.0)
    parent = parents.get(section.not_below)
    if parent is None or section.task not in parent.scores:
        raise ConfigError(f"objective.constraints: the score of {section.not_below} on {section.task} is not known.")
    return Constraint(
        task=section.task,
        measure=section.measure,
        source=section.not_below,
        by=section.by,
        parent=parent.scores[section.task],
    )


def _check_constraint(constraint: ConstraintSection, place: tuple[str, int], info: ValidationInfo) -> None:
    """Raise what pydantic collects where a constraint names an unknown source, or does not suit a race."""
    merge: _Merge | None = info.data.get("merge")
    sources = None if merge is None else merge.source_names
    if sources is not None and constraint.not_below is not None and constraint.not_below not in sources:
        hint = did_you_mean(constraint.not_below, sources)
        raise _at((*place, "not_below"), f"is not a source of the merge{hint}", constraint.not_below)
    if _sees_the_hard_ones_first(info) and not constraint.is_paired:
        raise _at(
            place,
            "is on all samples, but `racing.order: informative` (the default) shows a race the unsolved ones first; "
            "set it to shuffled",
            constraint.task,
        )


def _sees_the_hard_ones_first(info: ValidationInfo) -> bool:
    racing: RacingSection | None = info.data.get("racing")
    return racing is not None and racing.order == INFORMATIVE


def _at(place: tuple[str | int, ...], reason: str, found: object) -> ValidationError:
    """Return an error at a place within the section."""
    error = PydanticCustomError("objective", "{reason}", {"reason": reason})
    return ValidationError.from_exception_data("objective", [InitErrorDetails(type=error, loc=place, input=found)])
