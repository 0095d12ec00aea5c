"""Jobs for workers: recipes and samples go in, evaluations come out in the order of the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from evovlm.errors import EvovlmError, JudgeStopped
from evovlm.evaluation.engines.table import BUILTIN_ENGINE, EngineId
from evovlm.recipes.candidate import Failure, Outcome
from evovlm.recipes.kinds import Recipe

if TYPE_CHECKING:
    from evovlm.evaluation.answers import TaskChoice
    from evovlm.evaluation.evaluator import Evaluator
    from evovlm.evaluation.objective import Objective
    from evovlm.recipes.kinds import PathTemplate
    from evovlm.recipes.recipe import MergeTemplate

Rows: TypeAlias = tuple[tuple[int, ...], ...]
"""The rows of samples of each task, in the order of the tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A recipe to merge, and the samples to score it on (`rows`; None for all)."""

    recipe: Recipe
    rows: Rows | None = None


class Workers(Protocol):
    """One or more resident models of one template with the same tasks. Results depend only on the jobs."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of samples of each task, by name, in the order of the tasks."""
        ...

    @property
    def blocks(self) -> Mapping[str, int]:
        """The number of decoder blocks of each source, by name."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be merged but may harm the result."""
        ...

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcome of each job in the order of the jobs, as soon as those before it are done."""
        ...

    def close(self) -> None:
        """Release everything that they hold."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """A worker's device, its threads (None: those of the process), and how many workers share the machine's memory.

    With an engine that divides a model over GPUs, `device` is the first of them. `gpu_share` is the worker's part of a
    GPU that it shares with others.
    """

    device: str
    engine: EngineId = BUILTIN_ENGINE
    threads: int | None = None
    n_sharing: int = 1
    gpu_share: float = 1.0


class Opening(Protocol):
    """What each worker opens. It is sent to the workers, so it contains names of models, not models."""

    def open(self, settings: WorkerSettings) -> Workers:
        """Open one worker with these settings. Raises EvovlmError for what the user can fix."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorOpening:
    """Opens the evaluator of a search; see `Evaluator.open`."""

    template: MergeTemplate | PathTemplate
    tasks: tuple[TaskChoice, ...]
    objective: Objective | None = None
    allow_code: bool = False

    def open(self, settings: WorkerSettings) -> InProcess:
        """See Opening. Raises what `Evaluator.open` raises."""
        # Loads torch, which a process that only keeps workers busy does not need.
        from evovlm.evaluation.evaluator import Evaluator

        evaluator = Evaluator.open(
            self.template,
            tasks=self.tasks,
            objective=self.objective,
            device=settings.device,
            n_sharing=settings.n_sharing,
            engine=settings.engine,
            allow_code=self.allow_code,
        )
        return InProcess(evaluator=evaluator)


@dataclass(slots=True, kw_only=True, eq=False)
class InProcess:
    """One worker: the model of this process."""

    evaluator: Evaluator
    _current: tuple[Rows | None, Evaluator] | None = field(default=None, init=False)

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of samples of each task, by name, in the order of the tasks."""
        return {task.name: task.n_samples for task in self.evaluator.tasks}

    @property
    def blocks(self) -> Mapping[str, int]:
        """The number of decoder blocks of each source, by name."""
        return self.evaluator.resident.blocks

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be merged but may harm the result."""
        return self.evaluator.resident.warnings

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcome of each job, one after another."""
        for job in jobs:
            yield self._outcome(job)

    def close(self) -> None:
        """Do nothing: the evaluator belongs to the caller."""

    def _outcome(self, job: Job) -> Outcome:
        try:
            return self._on(job.rows).evaluate(job.recipe)
        except JudgeStopped:
            # Every further candidate would fail in the same way.
            raise
        except EvovlmError as error:
            # A recipe that cannot be merged (every weight is 0, for example) is a failed candidate, not a failed run.
            return Failure(kind=type(error).__name__, reason=str(error))

    def _on(self, rows: Rows | None) -> Evaluator:
        if self._current is None or self._current[0] != rows:
            self._current = rows, self.evaluator if rows is None else self.evaluator.part(rows)
        return self._current[1]
