"""A look at a search before its models are fetched: the merge, the device, the budget."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evovlm.errors import ConfigError, EvovlmError
from evovlm.merging.licences import most_restrictive
from evovlm.merging.needs import Resident
from evovlm.merging.preflight import Preflight, preflight
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.leaks import leak_warnings
from evovlm.runs.path_config import blocks_at_hand
from evovlm.runs.search_config import SearchConfig

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
        resident = _resident(config.device)
    except ConfigError as error:
        problems.append(error)
    found = _preflight_merge(template, out=out, resident=resident)
    problems += _budget_problems(config, template, found)
    leaks: tuple[str, ...] = ()
    try:
        leaks = leak_warnings(config)
    except EvovlmError as error:
        problems.append(error)
    return replace(found, problems=(*found.problems, *problems), warnings=(*found.warnings, *leaks))


def _resident(device: str) -> Resident:
    import torch

    from evovlm.models.loading import choose_device

    place = choose_device(device)
    if place.type == "cpu":
        # There the model is loaded as float32, whatever it is stored as.
        return Resident(bytes_per_number=_FLOAT32_BYTES, where="memory", available_bytes=None)
    free, _ = torch.cuda.mem_get_info(place)
    return Resident(bytes_per_number=None, where=f"the memory of {place}", available_bytes=free)


def _preflight_merge(
    template: MergeTemplate | PathTemplate, *, out: Path | None, resident: Resident | None
) -> Preflight:
    if isinstance(template, MergeTemplate):
        return preflight(template, out=out, resident=resident)
    return Preflight(models=(), problems=(), warnings=(), needs=None, licence=most_restrictive({}))


def _budget_problems(
    config: SearchConfig, template: MergeTemplate | PathTemplate, found: Preflight
) -> Sequence[EvovlmError]:
    host = next((model for model in found.models if model.name == "host"), None)
    blocks: Mapping[str, int] | None = None if host is None else dict.fromkeys(template.sources, host.n_blocks)
    if isinstance(template, PathTemplate):
        blocks = blocks_at_hand(template)
    if blocks is None:
        return []
    try:
        config.population(dim=config.searched(template=template, blocks=blocks).dim)
    except ConfigError as error:
        return [error]
    return []
