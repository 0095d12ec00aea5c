"""Everything that differs between devices: their names, their memory, and what they raise when it runs out.

torch is imported only where a GPU may exist, as that takes seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evovlm.errors import ConfigError
from evovlm.resources import available_memory_bytes

if TYPE_CHECKING:
    import torch

SPREAD = "auto-map"
"""All GPUs of the machine as one device: the package accelerate divides a model's blocks among them."""

BFLOAT16_CPU = "cpu:bfloat16"
"""The CPU, with weights in bfloat16: half the memory, and faster where the processor has instructions for it."""

GPUS = {"cuda": "CUDA", "xpu": "XPU (Intel)", "mps": "MPS (Apple)"}
"""The kinds of GPU by torch's names, with their names in messages."""


class Explained(NamedTuple):
    """Why something cannot be used, and what would help."""

    reason: str
    remedy: str


_NAME = re.compile(r"(?P<kind>cuda|xpu)(:(?P<index>0|[1-9][0-9]*))?|mps|cpu(:bfloat16)?")
# The drivers' files: Nvidia, Nvidia's Jetson, AMD, and a GPU of Windows in WSL.
_GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "nvhost-gpu", "nvgpu", "kfd", "dxg")
# Only torch.OutOfMemoryError has a class of its own: MPS, the CPU and the libraries of CUDA, which take memory at their
# first use, raise a RuntimeError.
_OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


def choose_device(name: str) -> torch.device:
    """Return the device of that name and make it this process's current one, so that nothing is put on another GPU.

    `auto` is the first CUDA device, or the CPU without one. Raises ConfigError for a device that does not exist.
    """
    import torch

    found = device_name(name)
    device = torch.device("cpu" if is_cpu(found) else found)
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).set_device(device.index or 0)
    return device


def device_name(name: str) -> str:
    """Return a device's name, with `auto` resolved: cpu, cpu:bfloat16, cuda, cuda:1. Raises as `choose_device` does."""
    if name == "auto":
        return "cuda" if count_gpus() else "cpu"
    found = _NAME.fullmatch(name)
    if found is None:
        raise ConfigError(
            f"device: '{name}' is not a device. Name auto, cpu, {BFLOAT16_CPU}, cuda, cuda:N, xpu, mps or {SPREAD}."
        )
    kind = found["kind"] or name
    n_found = 1 if is_cpu(name) else count_gpus(kind)
    if int(found["index"] or 0) >= n_found:
        raise ConfigError(
            f"device: '{name}' was not found; torch finds {n_found} {GPUS[kind]} devices on this machine.\n"
            "    Name another device, or see `evovlm doctor`."
        )
    return name


def is_cpu(name: str) -> bool:
    """Return whether a device's name is one of the CPU's: cpu, cpu:bfloat16."""
    return name in ("cpu", BFLOAT16_CPU)


def count_gpus(kind: str = "cuda") -> int:
    """Return the number of devices of a kind of GPU that torch can use on this machine."""
    if kind == "cuda" and not _may_have_cuda():
        return 0
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    n_found: int = getattr(torch, kind).device_count()
    return n_found


def _may_have_cuda() -> bool:
    if "torch" in sys.modules or sys.platform == "win32":
        return True
    built_without = version("torch").endswith("+cpu") or sys.platform == "darwin"
    return not built_without and any(next(Path("/dev").glob(name), None) for name in _GPU_FILES)


def device_memory(device: torch.device) -> tuple[int | None, int | None]:
    """Return how many bytes a program can still take of a device, and how many it has; None where that is unknown.

    What torch's allocator holds without using it counts as free. A process that has a share of a GPU (`share_gpu`) has
    that part of its memory.
    """
    import torch

    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return max(0, total - torch.mps.current_allocated_memory()), total
    if device.type in ("cuda", "xpu"):
        backend: Any = getattr(torch, device.type)
        free, total = backend.mem_get_info(device)
        reserved = backend.memory_reserved(device)
        if device.type == "cuda":
            total = int(torch.cuda.get_per_process_memory_fraction(device) * total)
            free = min(free, max(0, total - reserved))
        return free + reserved - backend.memory_allocated(device), total
    return available_memory_bytes(), None


def share_gpu(share: float) -> None:
    """Keep this process to a share of the memory of its current CUDA device, because others use the rest."""
    import torch

    torch.cuda.set_per_process_memory_fraction(share)


_ASK = "import sys, torch; from evovlm.devices import device_memory; print(*device_memory(torch.device(sys.argv[1])))"
_LEFT_FREE = 0.25


def spare_bytes(free_bytes: int | None, total_bytes: int | None) -> int:
    """Return how much of a GPU's free memory merged models may take; a quarter of all is left to the answers."""
    return max(0, (free_bytes or 0) - int(_LEFT_FREE * (total_bytes or 0)))


def memory_elsewhere(name: str) -> tuple[int | None, int | None]:
    """Return the memory of a device as `device_memory`, asked by another process, for one that does not use the device.

    A process that asks a GPU for its memory takes some hundred megabytes of it until it ends.
    """
    asked = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-P", "-c", _ASK, name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    free, total = (*asked.stdout.split(), "", "")[:2] if asked.returncode == 0 else ("", "")
    return int(free) if free.isdecimal() else None, int(total) if total.isdecimal() else None


def peak_gpu_bytes() -> int:
    """Return the most bytes that torch held on one GPU for this process; 0 where it used none, or does not count."""
    import torch

    used = [backend for backend in (torch.cuda, torch.xpu) if backend.is_initialized()]
    return max((each.max_memory_allocated(n) for each in used for n in range(each.device_count())), default=0)


def triton_problem() -> Explained | None:
    """Return why Triton, which merges on a GPU, cannot be used on this machine; None where it can."""
    import torch

    if torch.version.hip is not None:
        return Explained(reason="merging on AMD's GPUs (ROCm) is not tested", remedy="use a GPU of Nvidia")
    if sys.platform == "win32":
        return Explained(reason="merging on a GPU is not tested on Windows", remedy="use WSL")
    if find_spec("triton") is None:
        return Explained(reason="the package triton is not installed", remedy="pip install triton")
    # As triton/runtime/build.py looks for them.
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("gcc", "clang")):
        reason = "Triton found no C compiler (gcc, clang, or what CC names)"
        return Explained(reason=reason, remedy="apt-get install gcc")
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme=scheme)["include"]) / "Python.h"
    if not header.is_file():
        reason = f"Triton needs Python's headers, and {header} does not exist"
        return Explained(reason=reason, remedy="apt-get install python3-dev")
    return None


def release_memory() -> None:
    """Return the memory that torch's allocators hold without using it to the devices."""
    import torch

    torch.cuda.empty_cache()
    torch.xpu.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory ran out, on any device."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
