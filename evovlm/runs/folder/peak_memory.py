"""How much memory a run took at most, as the machine counts it."""

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

PEAK_MEMORY = "peak_memory_bytes"
"""The key in a run's result. What it took is a machine's matter, and stands in no journal."""

PLACES = ("process", "worker", "gpu")


def peak_memory() -> Mapping[str, int]:
    """Return the most bytes that this `process` held so far, those of the largest `worker` that has ended, if any, and
    what torch had on the `gpu` that it filled most, if it used one; what workers have on a GPU is not known.
    """
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "worker": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    }
    if torch.cuda.is_available():
        found["gpu"] = max(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    return {place: value for place, value in found.items() if value}


def recorded_peak_memory(result_file: Path) -> Mapping[str, int]:
    """Return what a run's result says of it; nothing where there is none, or it is none of ours."""
    try:
        result = json.loads(result_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = result.get(PEAK_MEMORY) if isinstance(result, dict) else None
    if not isinstance(found, dict):
        return {}
    return {place: found[place] for place in PLACES if type(found.get(place)) is int and found[place] > 0}
