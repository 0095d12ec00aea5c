"""The devices that a model can be on. torch is imported only where a GPU may exist, as that takes seconds."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.errors import ConfigError

if TYPE_CHECKING:
    import torch

SPREAD = "auto-map"
"""All GPUs of the machine as one device: the package accelerate divides a model's blocks among them."""

_CUDA = re.compile(r"cuda(:(?P<index>0|[1-9][0-9]*))?")
# The drivers' files: Nvidia, Nvidia's Jetson, AMD, and a GPU of Windows in WSL.
_GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu", "kfd", "dxg")


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first CUDA device, or the CPU without one.

    Raises ConfigError for a device that does not exist.
    """
    import torch

    return torch.device(device_name(name))


def device_name(name: str) -> str:
    """Return the name of the device that `choose_device` returns: cpu, cuda, cuda:1. Raises as it does."""
    if name == "auto":
        return "cuda" if count_gpus() else "cpu"
    if found := _CUDA.fullmatch(name):
        if int(found["index"] or 0) >= count_gpus():
            raise ConfigError(f"device: '{name}' was not found; this machine has {count_gpus()} CUDA devices.")
    elif name != "cpu":
        import torch

        try:
            torch.device(name)
        except RuntimeError as error:
            raise ConfigError(f"device: '{name}' is not a device. Name auto, cpu, cuda, cuda:N or {SPREAD}.") from error
    return name


def count_gpus() -> int:
    """Return the number of CUDA devices that torch can use on this machine."""
    if not _may_have_gpus():
        return 0
    import torch

    return torch.cuda.device_count()


def _may_have_gpus() -> bool:
    if "torch" in sys.modules or sys.platform == "win32":
        return True
    built_without = version("torch").endswith("+cpu") or sys.platform == "darwin"
    return not built_without and any(next(Path("/dev").glob(name), None) for name in _GPU_FILES)
