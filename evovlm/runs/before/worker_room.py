"""Whether as many models as there are to be workers have room in memory beside each other."""

from collections.abc import Sequence

from evovlm.errors import NotEnoughRoom
from evovlm.merging.before.findings import ModelReport, Preflight
from evovlm.merging.before.needs import ModelMemory, gigabytes
from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS
from evovlm.resources import available_memory_bytes
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.searching.workers import device_of

_PROCESS_BYTES = 500_000_000
"""What a process takes before it has a model: interpreter, torch, compiled kernels, a tokenizer."""


def worker_room_problems(config: SearchConfig, found: Preflight, *, resident: ModelMemory) -> Sequence[NotEnoughRoom]:
    """Return what stands against so many workers on this machine, from what a look at the search `found`.

    The models' files are in the page cache, once for all; what grows with the answers comes on top.
    """
    if config.ray is not None or config.workers == 1 or not found.models:
        return []
    each = found.needs.memory_bytes if found.needs is not None else _loaded_bytes(found.models, resident)
    available = resident.available_bytes
    if available is None:
        available, each = available_memory_bytes(), each + _PROCESS_BYTES
    if available is None:
        return []
    n_devices = len({device_of(worker, device=config.device) for worker in range(config.workers)})
    fit = n_devices * (available // each)
    if config.workers <= fit:
        return []
    on_each = " on each device" if n_devices > 1 else ""
    return [
        NotEnoughRoom(
            f"workers: {config.workers} models beside each other take about {gigabytes(each)} of {resident.where} "
            f"each, and {gigabytes(available)} are available{on_each}: {fit} fit.\n"
            f"    Set workers to {max(fit, 1)}{' or fewer' if fit > 1 else ''}."
        )
    ]


def worker_bytes(found: Preflight) -> int | None:
    """Return what a worker without a GPU takes; None where a look at the search could not tell."""
    return found.needs.memory_bytes + _PROCESS_BYTES if found.needs is not None else None


def _loaded_bytes(models: Sequence[ModelReport], resident: ModelMemory) -> int:
    """Return what all models of a path take, each once; from above where their tensors have several dtypes."""
    once = {model.text: model for model in models}.values()
    if resident.bytes_per_number is None:
        return sum(model.size_bytes for model in once)
    return sum(model.size_bytes * resident.bytes_per_number * 8 // _bits(model) for model in once)


def _bits(model: ModelReport) -> int:
    return min(ITEM_BITS[code] for code in model.dtype.split(", "))
