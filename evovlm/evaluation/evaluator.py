"""The hot path of a search: one resident model becomes one candidate after another, and answers the tasks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evovlm.devices import is_out_of_memory, release_memory
from evovlm.errors import ConfigError, TaskError
from evovlm.evaluation.answering import open_tasks
from evovlm.evaluation.answers import PreparedTask, ScoredTask, TaskChoice
from evovlm.evaluation.engines.table import BUILTIN_ENGINE, EngineId
from evovlm.evaluation.engines.work import load_of
from evovlm.evaluation.objective import Objective
from evovlm.evaluation.resident import Resident, open_resident
from evovlm.models.loading import LoadedModel
from evovlm.models.pictures.feature_store import FeatureStore
from evovlm.recipes.candidate import Evaluation, Failure, Outcome
from evovlm.recipes.kinds import PathTemplate, Recipe
from evovlm.recipes.recipe import MergeTemplate
from evovlm.tasks.task import Split

PLACES = 6
"""Decimal places of a sample's score."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluator:
    """Scores recipes of one template on a search split; open it with `Evaluator.open`."""

    resident: Resident
    tasks: tuple[PreparedTask, ...]
    objective: Objective
    rows: tuple[tuple[int, ...], ...] | None = None

    @classmethod
    def open(
        cls,
        template: MergeTemplate | PathTemplate,
        *,
        tasks: Sequence[TaskChoice],
        objective: Objective | None = None,
        split: Split = Split.SEARCH,
        device: str = "auto",
        n_sharing: int = 1,
        engine: EngineId = BUILTIN_ENGINE,
        allow_code: bool = False,
    ) -> "Evaluator":
        """Open the models, load the host, and prepare every prompt and picture.

        `n_sharing` processes share the machine's memory, including this one. Without an `objective`, the fitness is the
        weighted mean of the tasks' scores. Raises TaskError for a report split or without a task that has weight, and
        what `open_tasks`, opening the models and the engine raise.
        """
        if split is not Split.SEARCH:
            raise TaskError("a search sees only search splits. Score its winner on the report split afterwards.")
        if not tasks or sum(choice.weight for choice in tasks) <= 0:
            raise TaskError("tasks: a search needs at least one task with a weight above 0.")
        opened = open_tasks(tasks, split, allow_code=allow_code)
        resident = open_resident(template, device=engine.device_to_load(device), n_sharing=n_sharing)
        store = FeatureStore()
        prepared = tuple(task.prepare(resident.loaded, store=store) for task in opened)
        resident.hand_over(engine, load_of(prepared, n_sharing=n_sharing))
        weights = {task.name: choice.weight for task, choice in zip(prepared, tasks, strict=True)}
        return cls(resident=resident, tasks=prepared, objective=objective or Objective(weights=weights))

    @property
    def loaded(self) -> LoadedModel:
        """The resident model."""
        return self.resident.loaded

    def part(self, rows: Sequence[Sequence[int]]) -> "Evaluator":
        """Return the evaluator for only some samples, `rows` of each task. Nothing is loaded or prepared again."""
        parts = tuple(task.part(chosen) for task, chosen in zip(self.tasks, rows, strict=True))
        return replace(self, tasks=parts, rows=tuple(tuple(chosen) for chosen in rows))

    def evaluate(self, recipe: Recipe) -> Outcome:
        """Merge, generate and score; a candidate that cannot be scored is a Failure, not an exception.

        Raises ConfigError for a recipe that cannot be a candidate of this search: one of another template, or one with
        lists of a wrong length.
        """
        self.resident.check(recipe)
        try:
            return self._evaluate(recipe)
        except FloatingPointError as error:
            return Failure(kind="not_finite", reason=str(error))
        except ConfigError as error:
            return Failure(kind="cannot_be_merged", reason=str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, where the error no longer refers to what filled the memory.
        release_memory()
        # torch's message differs between machines, and journals must not.
        return Failure(kind="out_of_memory", reason="out of memory")

    def _evaluate(self, recipe: Recipe) -> Evaluation:
        started = time.perf_counter()
        if not self.resident.merge(recipe):
            raise FloatingPointError("the merged weights are not finite")
        merged = time.perf_counter()
        scored = self.answer()
        rows = self.rows or (None,) * len(scored)
        scores = {
            # Rounded as in the journal, so that a resumed run decides as the first one did.
            each.name: replace(
                each.score, rows=chosen, per_sample=tuple(round(value, PLACES) for value in each.score.per_sample)
            )
            for each, chosen in zip(scored, rows, strict=True)
        }
        seconds = {"merge": merged - started}
        for stage in ("generate", "score"):
            seconds[stage] = sum(each.seconds[stage] for each in scored)
        found = self.objective.evaluation(scores, seconds=seconds, tokens=sum(each.tokens for each in scored))
        if not self.objective.human:
            return found
        return replace(found, texts=tuple(each.text for each in scored[0].answers if each.repeat == 0))

    def answer(self) -> tuple[ScoredTask, ...]:
        """Answer every task with the resident model as it is now."""
        return tuple(task.answer(self.resident.engine) for task in self.tasks)
