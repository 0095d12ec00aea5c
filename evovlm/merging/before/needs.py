"""The disk space, download and memory that a merge needs, and how much of each is available."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evovlm.errors import NotEnoughRoom
from evovlm.merging.arithmetic.task_vector import CHUNK
from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.in_turn import default_threads
from evovlm.merging.merge import PLANS_AHEAD
from evovlm.recipes.hub import cache_folder
from evovlm.resources import available_memory_bytes, device_number, free_disk_bytes

_WORKING_BYTES = 4
"""Merging computes in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a merge needs, and what is available (None: unknown). Memory is an upper estimate.

    `meanwhile_bytes` are on the disk beside the result until it is written. A search keeps `model_bytes` in memory, and
    reads `sources_bytes` of base and sources for each candidate.
    """

    result_bytes: int
    free_bytes: int | None
    download_bytes: int
    cache_free_bytes: int | None
    memory_bytes: int
    memory_available_bytes: int | None
    meanwhile_bytes: int = 0
    model_bytes: int = 0
    sources_bytes: int = 0


class ModelMemory(NamedTuple):
    """How a model is kept in memory: bytes for each of its numbers (None: as stored), and which memory.

    `available_bytes` are None for that of the machine, `total_bytes` where a device does not say. A device that
    `merges` reads base and sources itself.
    """

    bytes_per_number: int | None
    where: str
    available_bytes: int | None
    total_bytes: int | None = None
    merges: bool = False


def find_needs(
    host: Checkpoint,
    *,
    n_models: int,
    download_bytes: int,
    out: Path | None,
    resident: ModelMemory | None,
    n_marked: int = 0,
    beside: Sequence[Checkpoint] = (),
    read: Sequence[Checkpoint] = (),
) -> Needs:
    """Return what a merge of `n_models` models into `host` needs; without `out`, the current folder is the target.

    `n_marked` sources hold a bit for each entry of the tensors in work. `beside` are models that are kept in memory
    together with a resident host, `read` those that a merge reads.
    """
    threads, available = default_threads(), available_memory_bytes()
    sizes = sorted((math.prod(place.shape) for place in host.places.values()), reverse=True)
    # Besides the planned tensors, those that are being merged.
    marks_bytes = n_marked * sum(sizes[: (PLANS_AHEAD + 2) * threads]) // 8
    memory = threads * CHUNK * _WORKING_BYTES * (n_models + 2) + marks_bytes
    kept = 0
    if resident is not None:
        kept = sum(_kept_bytes(checkpoint, resident) for checkpoint in (host, *beside))
        if resident.available_bytes is None:
            memory += kept
        else:
            memory, available = kept, resident.available_bytes
    return Needs(
        result_bytes=sum(place.size_bytes for place in host.places.values()),
        free_bytes=free_disk_bytes(out or Path()),
        download_bytes=download_bytes,
        cache_free_bytes=free_disk_bytes(cache_folder()),
        memory_bytes=memory,
        memory_available_bytes=available,
        model_bytes=kept,
        sources_bytes=sum(map(_merged_bytes, read)),
    )


def _kept_bytes(checkpoint: Checkpoint, resident: ModelMemory) -> int:
    return sum(
        math.prod(place.shape) * (resident.bytes_per_number or ITEM_BITS[place.dtype_code] // 8)
        for place in checkpoint.places.values()
    )


def _merged_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of the tensors that are merged, of which float64 is read as float32."""
    places = map(checkpoint.place, checkpoint.backbone_names())
    return sum(math.prod(place.shape) * min(_WORKING_BYTES, ITEM_BITS[place.dtype_code] // 8) for place in places)


def room_problems(needs: Needs, *, out: Path | None) -> Sequence[NotEnoughRoom]:
    """Return problems of the disks: not enough space for the download, or for the result."""
    found = []
    cache, fetched = cache_folder(), needs.download_bytes
    if needs.cache_free_bytes is not None and fetched > needs.cache_free_bytes:
        found.append(
            NotEnoughRoom(
                f"{cache}: the download takes {gigabytes(fetched)}, and {gigabytes(needs.cache_free_bytes)} are free.\n"
                "    Free space, or set HF_HUB_CACHE to a folder on a larger disk."
            )
        )
    if out is None or needs.free_bytes is None:
        return found
    # The download may use the result's disk first.
    first = fetched if device_number(out) == device_number(cache) else 0
    if needs.result_bytes + needs.meanwhile_bytes + first > needs.free_bytes:
        beside = f" and {gigabytes(needs.meanwhile_bytes)} meanwhile" if needs.meanwhile_bytes else ""
        after = f", of which the download takes {gigabytes(first)}" if first else ""
        found.append(
            NotEnoughRoom(
                f"{out}: the result takes {gigabytes(needs.result_bytes)}{beside}, and {gigabytes(needs.free_bytes)} "
                f"are free{after}.\n    Free space, or name a folder on a larger disk."
            )
        )
    return found


def memory_warnings(needs: Needs, resident: ModelMemory | None) -> Sequence[str]:
    """Return a warning if memory may not suffice; not an error, since needs are an upper estimate."""
    if needs.memory_available_bytes is None or needs.memory_bytes <= needs.memory_available_bytes:
        return []
    where = resident.where if resident is not None else "memory"
    return [
        f"about {gigabytes(needs.memory_bytes)} of {where} are needed, and "
        f"{gigabytes(needs.memory_available_bytes)} are available."
    ]


def gigabytes(size_bytes: int) -> str:
    """Return the size for people: "14.5 GB", "21.3 MB"."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
