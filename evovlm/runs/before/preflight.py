"""A look at a search before its models are fetched: the merge, the device, the budget."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from evovlm.errors import ConfigError, EvovlmError
from evovlm.evaluation.scorer import check_scorer
from evovlm.merging.before.findings import Preflight, SearchSize
from evovlm.merging.before.needs import ModelMemory, room_problems
from evovlm.merging.before.preflight import Gathered, check_out, preflight, preflight_recipe
from evovlm.recipes.kinds import PS
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.recipe_space import CONFIG_FROM
from evovlm.resources import free_disk_bytes
from evovlm.runs.before.leaks import leak_warnings
from evovlm.runs.before.worker_room import worker_room_problems
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.config.search import SearchConfig, Searched
from evovlm.runs.searching.samples import SampleParts
from evovlm.runs.searching.workers import check_device
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
    resident: ModelMemory | None = None
    try:
        check_device(config, template)
        resident = _resident(config.device)
    except ConfigError as error:
        problems.append(error)
    found = _preflight_merge(config, template, out=out, resident=resident)
    if resident is not None:
        problems += worker_room_problems(config, found, resident=resident)
    problems += _variant_problems(config, template)
    size: SearchSize | None = None
    notes: tuple[str, ...] = ()
    try:
        searched = _searched(config, template, found)
        if searched is not None:
            population, same = config.population(dim=searched.dim), config.optimizer.keeps_population
            size = SearchSize(
                genes=searched.dim,
                categorical=int((searched.levels > 0).sum()),
                population=population,
                generations=config.budget.generations(population=population) if same else None,
            )
            notes = (*searched.notes, *config.notes)
            # It may need a package that is not installed.
            config.new_optimizer(searched)
    except ConfigError as error:
        problems.append(error)
    problems += _metric_problems(config)
    leaks: tuple[str, ...] = ()
    try:
        leaks = leak_warnings(config)
        _check_sizes(config)
    except EvovlmError as error:
        problems.append(error)
    warnings = (*found.warnings, *notes, *leaks)
    return replace(found, problems=(*found.problems, *problems), warnings=warnings, search=size)


def preflight_hybrid(first: SearchConfig, second: SearchConfig, *, out: Path | None = None) -> Preflight:
    """Look at both stages of a hybrid, as `preflight_search` does; the second one's models are all that there are."""
    ours = preflight_search(first, first.template(relative_to=None))
    found = preflight_search(second, second.template(relative_to=None), out=out)
    needs = found.needs
    if needs is not None and ours.needs is not None:
        needs = replace(needs, memory_bytes=max(needs.memory_bytes, ours.needs.memory_bytes))
    problems = {str(problem): problem for problem in (*ours.problems, *found.problems)}
    warnings = dict.fromkeys((*ours.warnings, *found.warnings))
    return replace(found, problems=tuple(problems.values()), warnings=tuple(warnings), needs=needs)


def _metric_problems(config: SearchConfig) -> Iterator[EvovlmError]:
    for section in config.tasks:
        if is_harness_name(section.name):
            continue
        try:
            check_scorer(get_task(section.name).scoring)
        except EvovlmError as error:
            yield error


def _resident(device: str) -> ModelMemory:
    import torch

    from evovlm.models.loading import SPREAD, choose_device

    place = choose_device("auto" if device == SPREAD else device)
    if place.type == "cpu":
        # There the model is loaded as float32, whatever it is stored as.
        return ModelMemory(bytes_per_number=_FLOAT32_BYTES, where="memory", available_bytes=None)
    if device == SPREAD:
        free = sum(torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count()))
        return ModelMemory(bytes_per_number=None, where="all GPUs' memory", available_bytes=free)
    free, _ = torch.cuda.mem_get_info(place)
    return ModelMemory(bytes_per_number=None, where=f"the memory of {place}", available_bytes=free)


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
    config: SearchConfig, template: MergeTemplate | PathTemplate, *, out: Path | None, resident: ModelMemory | None
) -> Preflight:
    if isinstance(template, MergeTemplate):
        return preflight(template, out=out, resident=resident)
    least = preflight_recipe(template.recipe(template.first_blocks()), out=out)
    blocks = _blocks(template, least)
    if blocks is None or not isinstance(config, PathConfig):
        return replace(least, needs=None, result=None)
    try:
        longest = config.path_space(host=template.host_source, blocks=blocks).longest
    except ConfigError:
        # The look at the budget says what is wrong with the space.
        return replace(least, needs=None, result=None)
    largest = preflight_recipe(template.recipe(longest), resident=resident)
    return _at_most(replace(largest, problems=tuple(map(_of_search, largest.problems))), out=out)


def _of_search(problem: EvovlmError) -> EvovlmError:
    """Return the problem of a path through every position as one of the search; only its scales are its own."""
    if not isinstance(problem, ConfigError):
        return problem
    return ConfigError(
        f"space.scales: no checkpoint would be what such a path is ({problem})\n    Take `scales: none`, or with "
        "`scale_target: pending` also pairwise or network, which leave the first scale at 1."
    )


def _at_most(largest: Preflight, *, out: Path | None) -> Preflight:
    """Return the look at the longest path as one at the search: a winner that is so large is none to count on."""
    found = Gathered()
    check_out(out, found, may_exist=False)
    needs, result = largest.needs, largest.result
    warnings = largest.warnings
    if needs is not None and result is not None:
        needs = replace(needs, free_bytes=free_disk_bytes(out or Path()))
        if not room_problems(needs, out=None):
            warnings += tuple(f"for the largest winner there is, {room}" for room in room_problems(needs, out=out))
        result = replace(result, at_most=True)
    problems = (*largest.problems, *found.problems)
    return replace(largest, problems=problems, warnings=warnings, needs=needs, result=result)


def _blocks(template: MergeTemplate | PathTemplate, found: Preflight) -> Mapping[str, int] | None:
    """Return how many blocks each source has, in their order; None where a model could not be looked at."""
    if isinstance(template, PathTemplate):
        places = {name: "ps.host" if name == PS else f"sources.{name}" for name in template.source_names}
    else:
        places = dict.fromkeys(template.sources, "host")
    counts = {model.name: model.n_blocks for model in found.models}
    if not set(places.values()) <= set(counts):
        return None
    return {name: counts[place] for name, place in places.items()}


def _variant_problems(config: SearchConfig, template: MergeTemplate | PathTemplate) -> Iterator[EvovlmError]:
    """Yield what stands against the other configs that a candidate may choose for its result."""
    if not isinstance(config, EvolveConfig) or not isinstance(template, MergeTemplate):
        return
    for choice in config.space.all_choices:
        for donor in choice.options if choice.name == CONFIG_FROM else ():
            yield from preflight(replace(template, config_from=donor)).problems


def _searched(config: SearchConfig, template: MergeTemplate | PathTemplate, found: Preflight) -> Searched | None:
    """Return what is searched; None when the models do not tell. Raises ConfigError when it does not suit them."""
    blocks = _blocks(template, found)
    return None if blocks is None else config.searched(blocks)
