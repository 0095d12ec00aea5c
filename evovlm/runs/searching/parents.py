"""The scores of sources alone on a search's samples, for constraints that refer to them; measured before the search."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evovlm.devices import release_memory
from evovlm.evaluation.answering import answered, open_tasks
from evovlm.evaluation.answers import OpenTask, ScoredTask
from evovlm.evaluation.engines.table import BUILTIN_ENGINE, EngineId
from evovlm.evaluation.evaluator import PLACES
from evovlm.evaluation.resident import open_model
from evovlm.models.pictures.feature_store import FeatureStore
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.entries import Parent
from evovlm.tasks.task import Split


def measured_parents(
    config: SearchConfig,
    *,
    known: Mapping[str, Parent],
    engine: EngineId = BUILTIN_ENGINE,
    folder: Path | None = None,
    allow_code: bool = False,
) -> Mapping[str, Parent]:
    """Return the scores of each source that a constraint of a resolved config names; `known` ones are not asked again.

    Calls to a judge are counted in the run's `folder`. Each model is in memory only while it answers.
    """
    return {
        source: known[source]
        if source in known
        else _measured(config, source, tasks, engine=engine, folder=folder, allow_code=allow_code)
        for source, tasks in config.objective.parents.items()
    }


def _measured(
    config: SearchConfig, source: str, tasks: Sequence[str], *, engine: EngineId, folder: Path | None, allow_code: bool
) -> Parent:
    started = time.perf_counter()
    # Read before the model is loaded.
    opened = open_tasks(config.task_choices(folder=folder), Split.SEARCH, allow_code=allow_code)
    asked = [each for each in opened if each.name in tasks]
    scored = _scored(asked, config.source_alone(source), device=config.device, engine=engine)
    # The search's own model comes next, and may need the memory.
    gc.collect()
    release_memory()
    return Parent(
        source=source,
        scores={
            # As the journal has them.
            each.name: replace(each.score, per_sample=tuple(round(value, PLACES) for value in each.score.per_sample))
            for each in scored
        },
        tokens=sum(each.tokens for each in scored),
        seconds={"all": round(time.perf_counter() - started, PLACES)},
    )


def _scored(
    opened: Sequence[OpenTask], model: ModelRef | ParameterMerge, *, device: str, engine: EngineId
) -> tuple[ScoredTask, ...]:
    store = FeatureStore()
    holding, prepared = open_model(
        model, lambda loaded: [task.prepare(loaded, store=store) for task in opened], device=device, engine=engine
    )
    scored = tuple(answered(task, holding) for task in prepared)
    holding.close()
    return scored
