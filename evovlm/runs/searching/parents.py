"""What sources alone score on a search's samples, where a constraint is on that: measured once, before the search."""

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from evovlm.evaluation.answering import open_task, score_task
from evovlm.evaluation.answers import OpenTask, ScoredTask
from evovlm.evaluation.evaluator import PLACES
from evovlm.evaluation.resident import load_merged
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.pictures.feature_store import FeatureStore
from evovlm.recipes.kinds import PS
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge, SourceParameters
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.config.task_choices import task_choices
from evovlm.runs.folder.entries import Parent
from evovlm.tasks.task import Split


def measured_parents(
    config: SearchConfig, template: MergeTemplate | PathTemplate, *, known: Mapping[str, Parent]
) -> Mapping[str, Parent]:
    """Return what each source scores that a constraint of a resolved config names; `known` ones are not asked again.

    Each model is held only as long as it answers.
    """
    return {
        source: known[source] if source in known else _measured(config, template, source, tasks)
        for source, tasks in config.objective.parents.items()
    }


def alone(template: MergeTemplate, source: str) -> ParameterMerge:
    """Return the recipe that puts one source whole in the place of the host's language model, whatever the method."""
    one_hot = {name: SourceParameters(weight=float(name == source)) for name in template.sources}
    linear = replace(template, method="linear", settings=MergeSettings(), config_from=None)
    return linear.recipe(one_hot)


def _measured(
    config: SearchConfig, template: MergeTemplate | PathTemplate, source: str, tasks: Sequence[str]
) -> Parent:
    started = time.perf_counter()
    # Read before the model is loaded.
    opened = [
        each for each in (open_task(choice, Split.SEARCH) for choice in task_choices(config)) if each.name in tasks
    ]
    scored = _scored(opened, _loaded(template, source, device=config.device))
    # The search's own model comes next, and may need the room.
    gc.collect()
    torch.cuda.empty_cache()
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


def _scored(opened: Sequence[OpenTask], loaded: LoadedModel) -> tuple[ScoredTask, ...]:
    store = FeatureStore()
    return tuple(score_task(task, loaded, store=store) for task in opened)


def _loaded(template: MergeTemplate | PathTemplate, source: str, *, device: str) -> LoadedModel:
    if isinstance(template, MergeTemplate):
        return load_merged(alone(template, source), device=device)
    if source == PS and template.ps is not None:
        return load_merged(template.ps, device=device)
    return load_model(template.sources[source].resolve(), device=device)
