"""The hot path of a search: one resident model, whose parameters each candidate's merge is written into."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evovlm.errors import ConfigError, TaskError
from evovlm.evaluation.answering import PreparedTask, ScoredTask, TaskChoice
from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.merge import Merger
from evovlm.models.loading import LoadedModel
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.tasks.task import Split


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluator:
    """Scores recipes of one template on a search split; open it with `Evaluator.open`."""

    resident: ResidentModel
    tasks: tuple[PreparedTask, ...]
    weights: tuple[float, ...]

    @classmethod
    def open(
        cls,
        template: MergeTemplate,
        *,
        tasks: Sequence[TaskChoice],
        split: Split = Split.SEARCH,
        device: str = "auto",
    ) -> "Evaluator":
        """Open the models, load the host, and prepare every prompt and picture.

        Raises TaskError when the split is a report split or no task has weight, and whatever opening the models does.
        """
        if split is not Split.SEARCH:
            raise TaskError("a search sees only search splits; score its winner on the report split afterwards.")
        if not tasks or sum(choice.weight for choice in tasks) <= 0:
            raise TaskError("tasks: a search needs at least one task with a weight above 0.")
        opened = [choice.open(split) for choice in tasks]
        resident = ResidentModel.open(template, device=device)
        prepared = tuple(task.prepare(resident.loaded) for task in opened)
        weights = tuple(choice.weight for choice in tasks)
        return cls(resident=resident, tasks=prepared, weights=weights)

    @property
    def merger(self) -> Merger:
        """Merges the recipes."""
        return self.resident.merger

    @property
    def loaded(self) -> LoadedModel:
        """The resident model."""
        return self.resident.loaded

    @property
    def warnings(self) -> tuple[str, ...]:
        """What merges but may hurt."""
        return self.merger.warnings

    @property
    def n_blocks(self) -> int:
        """The number of decoder blocks of the merged model."""
        return self.merger.n_blocks

    def evaluate(self, recipe: ParameterMerge) -> Evaluation | Failure:
        """Merge, generate and score; a candidate that cannot be scored is a Failure, not an exception.

        The fitness is the mean of the tasks' scores by their weights. Raises ConfigError for a recipe of another
        template or with lists of a wrong length: no candidate of this search.
        """
        self.merger.check(recipe)
        try:
            return self._evaluate(recipe)
        except FloatingPointError as error:
            return Failure(kind="not_finite", reason=str(error))
        except ConfigError as error:
            return Failure(kind="cannot_be_merged", reason=str(error))
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            first_line = (str(error).strip().splitlines() or [""])[0]
            return Failure(kind="out_of_memory", reason=f"out of memory: {first_line}".rstrip(": "))

    def _evaluate(self, recipe: ParameterMerge) -> Evaluation:
        started = time.perf_counter()
        if not self.merge_into_resident(recipe):
            raise FloatingPointError("the merged weights are not finite")
        merged = time.perf_counter()
        scored = self.answer()
        scores = {each.name: each.score for each in scored}
        fitness = sum(
            weight * scores[each.name].score for weight, each in zip(self.weights, scored, strict=True)
        ) / sum(self.weights)
        seconds = {"merge": merged - started}
        for stage in ("generate", "score"):
            seconds[stage] = sum(each.seconds[stage] for each in scored)
        return Evaluation(scores=scores, fitness=fitness, seconds=seconds, tokens=sum(each.tokens for each in scored))

    def merge_into_resident(self, recipe: ParameterMerge) -> bool:
        """Write the merge into the resident model's parameters; return whether every weight is finite."""
        return self.resident.merge(recipe)

    def answer(self) -> tuple[ScoredTask, ...]:
        """Answer every task with the resident model as it is now."""
        return tuple(task.answer(self.loaded) for task in self.tasks)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: on a GPU torch has a class for it, on a CPU it only says so."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)
