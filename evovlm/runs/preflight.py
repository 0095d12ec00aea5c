"""A look at a search before its models are fetched: the merge, the device, the budget."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from evovlm.errors import ConfigError, EvovlmError
from evovlm.evaluation.scorer import check_scorer
from evovlm.merging.findings import Preflight
from evovlm.merging.needs import Resident
from evovlm.merging.path_preflight import preflight_recipe
from evovlm.merging.preflight import preflight
from evovlm.recipes.kinds import PS
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.crew import check_device
from evovlm.runs.leaks import leak_warnings
from evovlm.runs.sample_parts import SampleParts
from evovlm.runs.search_config import SearchConfig
from evovlm.runs.worker_room import worker_room_problems
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.task import Split

_FLOAT32_BYTES = 4


def preflight_search(
    config: SearchConfig, template: MergeTemplate | PathTemplate, *, out: Path | None = None
) -> Preflight:
    """Look at a search without fetching weights; `template` is the config's, `out` where its winner is to be written.

    Paths of tasks in `config` are absolute. Its warnings say, too, what the search would see of reported samples.
    Raises nothing that the user can mend: it is among the problems.
    """
    problems: list[EvovlmError] = []
    resident: Resident | None = None
    try:
        check_device(config, template)
        resident = _resident(config.device)
    except ConfigError as error:
        problems.append(error)
    found = _preflight_merge(template, out=out, resident=resident)
    if resident is not None:
        problems += worker_room_problems(config, found, resident=resident)
    problems += _budget_problems(config, template, found)
    problems += _metric_problems(config)
    leaks: tuple[str, ...] = ()
    try:
        leaks = leak_warnings(config)
        _check_sizes(config)
    except EvovlmError as error:
        problems.append(error)
    return replace(found, problems=(*found.problems, *problems), warnings=(*found.warnings, *leaks))


def preflight_hybrid(first: SearchConfig, second: SearchConfig, *, out: Path | None = None) -> Preflight:
    """Look at both stages of a hybrid, as `preflight_search` does; the second one's models are all that there are."""
    ours = preflight_search(first, first.template(relative_to=None))
    found = preflight_search(second, second.template(relative_to=None), out=out)
    problems = {str(problem): problem for problem in (*ours.problems, *found.problems)}
    warnings = dict.fromkeys((*ours.warnings, *found.warnings))
    return replace(found, problems=tuple(problems.values()), warnings=tuple(warnings))


def _metric_problems(config: SearchConfig) -> Iterator[EvovlmError]:
    for section in config.tasks:
        if is_harness_name(section.name):
            continue
        try:
            check_scorer(get_task(section.name).scoring)
        except EvovlmError as error:
            yield error


def _resident(device: str) -> Resident:
    import torch

    from evovlm.models.loading import SPREAD, choose_device

    place = choose_device("auto" if device == SPREAD else device)
    if place.type == "cpu":
        # There the model is loaded as float32, whatever it is stored as.
        return Resident(bytes_per_number=_FLOAT32_BYTES, where="memory", available_bytes=None)
    if device == SPREAD:
        free = sum(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
        return Resident(bytes_per_number=None, where="all GPUs' memory", available_bytes=free)
    free, _ = torch.cuda.mem_get_info(place)
    return Resident(bytes_per_number=None, where=f"the memory of {place}", available_bytes=free)


def _check_sizes(config: SearchConfig) -> None:
    """Raise ConfigError when a task has too few samples for a batch and the validation."""
    if config.batch is None and config.validation is None:
        return
    sizes = {
        section.name: len(
            get_task(section.name).samples(
                Split.SEARCH, limit=section.limit, data=Path(section.data) if section.data is not None else None
            )
        )
        for section in config.tasks
        if not is_harness_name(section.name)
    }
    SampleParts(sizes=sizes, seed=config.seed, batch=config.batch, validation=config.validation)


def _preflight_merge(
    template: MergeTemplate | PathTemplate, *, out: Path | None, resident: Resident | None
) -> Preflight:
    if isinstance(template, MergeTemplate):
        return preflight(template, out=out, resident=resident)
    # What stands against one block of each source stands against the search; how large its winner is, nobody knows.
    found = preflight_recipe(template.recipe(template.first_blocks()), out=out)
    return replace(found, needs=None, result=None)


def _budget_problems(
    config: SearchConfig, template: MergeTemplate | PathTemplate, found: Preflight
) -> Sequence[EvovlmError]:
    counts = {model.name: model.n_blocks for model in found.models}
    if isinstance(template, PathTemplate):
        places = {name: f"sources.{name}" for name in template.sources}
        places |= {PS: "ps.host"} if template.ps else {}
    else:
        places = dict.fromkeys(template.sources, "host")
    if not set(places.values()) <= set(counts):
        return []
    names = template.source_names if isinstance(template, PathTemplate) else tuple(template.sources)
    blocks = {name: counts[places[name]] for name in names}
    try:
        config.population(dim=config.searched(template=template, blocks=blocks).dim)
    except ConfigError as error:
        return [error]
    return []
