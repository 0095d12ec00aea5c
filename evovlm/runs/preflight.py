"""A look at a search before its models are fetched: the merge, the device, the budget."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evovlm.errors import ConfigError, EvovlmError
from evovlm.merging.findings import Preflight
from evovlm.merging.needs import Resident
from evovlm.merging.preflight import preflight
from evovlm.recipes.recipe import MergeTemplate
from evovlm.runs.config import EvolveConfig

_FLOAT32_BYTES = 4


def preflight_search(config: EvolveConfig, template: MergeTemplate, *, out: Path | None = None) -> Preflight:
    """Look at a search without fetching weights; `template` is the config's, `out` where its winner is to be written.

    Raises nothing that the user can mend: it is among the problems.
    """
    problems: list[EvovlmError] = []
    resident: Resident | None = None
    try:
        resident = _resident(config.device)
    except ConfigError as error:
        problems.append(error)
    found = preflight(template, out=out, resident=resident)
    problems += _budget_problems(config, found)
    return replace(found, problems=(*found.problems, *problems))


def _resident(device: str) -> Resident:
    import torch

    from evovlm.models.loading import choose_device

    place = choose_device(device)
    if place.type == "cpu":
        # There the model is loaded as float32, whatever it is stored as.
        return Resident(bytes_per_number=_FLOAT32_BYTES, where="memory", available_bytes=None)
    free, _ = torch.cuda.mem_get_info(place)
    return Resident(bytes_per_number=None, where=f"the memory of {place}", available_bytes=free)


def _budget_problems(config: EvolveConfig, found: Preflight) -> Sequence[EvovlmError]:
    host = next((model for model in found.models if model.name == "host"), None)
    if host is None:
        return []
    try:
        config.population(dim=config.search_space(n_blocks=host.n_blocks).dim)
    except ConfigError as error:
        return [error]
    return []
