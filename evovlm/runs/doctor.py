"""Examines the machine that evovlm is to run on: what works, what is missing, and the command that helps."""

import importlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement

from evovlm import __version__
from evovlm.assets import asset_path
from evovlm.devices import BFLOAT16_CPU, GPUS, count_gpus, device_memory, triton_problem
from evovlm.masking import masked
from evovlm.recipes.hub import cache_folder, unreachable_reason
from evovlm.resources import available_memory_bytes, free_disk_bytes
from evovlm.tasks.emoji_pictures import noto_font

if TYPE_CHECKING:
    import torch

State = Literal["ok", "optional", "broken"]

_IMPORTED = ("torch", "transformers", "numba", "safetensors", "datasets", "cma")
"""The packages that everything needs; an installed one may still not load (a system library may be missing)."""
_FREE_NEEDED_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was examined: what was `found`, and the command or step that fixes a problem (`remedy`)."""

    topic: str
    name: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """All findings; `can_run` is False if something essential is broken."""

    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        """Whether evovlm can run here."""
        return all(finding.state != "broken" for finding in self.findings)

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {"ok": self.can_run, "findings": [asdict(finding) for finding in self.findings]}


def examine(folder: Path) -> Examination:
    """Examine the machine; `folder` is where results would be written. Uses no network and prints no secrets."""
    loading = tuple(_loading())
    torch_loads = all(finding.name != "torch loads" for finding in loading)
    return Examination(
        findings=(
            *_versions(),
            *loading,
            *(_devices() if torch_loads else ()),
            *_memory_and_disk(folder),
            *_hub(),
            *_assets(),
        )
    )


def _versions() -> Iterator[Finding]:
    yield Finding(topic="versions", name="evovlm", state="ok", found=__version__)
    yield Finding(topic="versions", name="python", state="ok", found=f"{platform.python_version()} ({sys.executable})")
    try:
        needed = importlib.metadata.requires("evovlm") or []
    except importlib.metadata.PackageNotFoundError:
        found = "runs from a folder; its requirements are not checked"
        yield Finding(topic="versions", name="install", state="optional", found=found, remedy="pip install evovlm")
        return
    for text in needed:
        requirement = Requirement(text)
        if requirement.marker is None:
            yield _package(requirement, extra=None)
        elif not requirement.marker.evaluate({"extra": "dev"}) and requirement.marker.evaluate({"extra": "lm-eval"}):
            yield _package(requirement, extra="lm-eval")


def _package(requirement: Requirement, *, extra: str | None) -> Finding:
    """Look for a package that evovlm or one of its extras needs."""
    wrong: State = "broken" if extra is None else "optional"
    what = f"{requirement.name}{requirement.specifier}" if extra is None else f"evovlm[{extra}]"
    install = f'pip install "{what}"'
    name = requirement.name if extra is None else f"{requirement.name} (extra {extra})"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(topic="versions", name=name, state=wrong, found="not installed", remedy=install)
    if not requirement.specifier.contains(version, prereleases=True):
        found = f"{version}, but {requirement.specifier} is needed"
        return Finding(topic="versions", name=name, state=wrong, found=found, remedy=install)
    return Finding(topic="versions", name=name, state="ok", found=version)


def _loading() -> Iterator[Finding]:
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            yield Finding(
                topic="versions",
                name=f"{name} loads",
                state="broken",
                found=" ".join(str(error).split()) or type(error).__name__,
                remedy=f"pip install --force-reinstall {name}",
            )


def _product_seconds(dtype: "torch.dtype") -> float:
    """Return the least processor time of a product as answers need them: 64 tokens with weights of 2560 x 1024."""
    import torch

    weights, tokens = torch.ones(2560, 1024, dtype=dtype), torch.ones(64, 1024, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.process_time()
        torch.nn.functional.linear(tokens, weights)
        seconds.append(time.process_time() - started)
    return min(seconds)


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{cores} cores, torch uses {torch.get_num_threads()}"
    yield Finding(topic="devices", name="cpu", state="ok", found=f"{platform.machine()}, {threads}")
    share = _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)
    found = f"half the memory; products take {share:.2f} times as long as in float32"
    yield Finding(topic="devices", name=BFLOAT16_CPU, state="ok", found=found)
    names = [kind if kind == "mps" else f"{kind}:{index}" for kind in GPUS for index in range(count_gpus(kind))]
    for name in names:
        free, total = device_memory(torch.device(name))
        found = f"{(free or 0) / 1e9:.1f} of {(total or 0) / 1e9:.1f} GB free"
        if name != "mps":
            found = f"{getattr(torch, name.partition(':')[0]).get_device_name(name)}, {found}"
        if not name.startswith("cuda"):
            found += f"; used only when it is named (device: {name})"
        yield Finding(topic="devices", name=name, state="ok", found=found)
    if any(name.startswith("cuda") for name in names):
        yield _triton()
    if not names:
        built = torch.version.cuda is not None or torch.version.hip is not None
        yield Finding(
            topic="devices",
            name="gpu",
            state="optional",
            found="none" if built else "none (this torch was built without)",
            remedy="models of 7B and more need one: see https://pytorch.org/get-started/locally/",
        )


def _triton() -> Finding:
    """Look for what merging on the GPU needs; without it, merges are computed on the CPU."""
    problem = triton_problem()
    return Finding(
        topic="devices",
        name="merging on the GPU",
        state="ok" if problem is None else "optional",
        found="with Triton" if problem is None else f"not possible, the CPU merges: {problem.reason}",
        remedy=None if problem is None else problem.remedy,
    )


def _memory_and_disk(folder: Path) -> Iterator[Finding]:
    memory = available_memory_bytes()
    yield _amount("memory", memory, "close other programs, or take a larger machine")
    yield _amount(f"disk of {folder.absolute()}", free_disk_bytes(folder), "free some space, or work on another disk")
    cache = cache_folder()
    there = f"disk of the hub's cache, {cache}"
    yield _amount(there, free_disk_bytes(cache), "free some space, or set HF_HOME to another folder")


def _amount(name: str, size_bytes: int | None, remedy: str) -> Finding:
    if size_bytes is None:
        return Finding(topic="memory and disk", name=name, state="ok", found="unknown on this machine")
    enough = size_bytes >= _FREE_NEEDED_BYTES
    found = f"{size_bytes / 1e9:.1f} GB free"
    return Finding(
        topic="memory and disk",
        name=name,
        state="ok" if enough else "optional",
        found=found,
        remedy=None if enough else remedy,
    )


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    yield Finding(topic="hub", name="address", state="ok", found=masked(str(constants.ENDPOINT)))
    cache = cache_folder()
    place = next(path for path in (cache, *cache.parents) if path.exists())
    may_write = os.access(place, os.W_OK)
    yield Finding(
        topic="hub",
        name="cache",
        state="ok" if may_write else "broken",
        found=f"{cache}{'' if cache.exists() else ' (does not exist yet)'}{'' if may_write else ', cannot be written'}",
        remedy=None if may_write else "set HF_HOME to a folder that you can write",
    )
    offline = bool(constants.HF_HUB_OFFLINE)
    found = "on: nothing is fetched (HF_HUB_OFFLINE)" if offline else "off"
    yield Finding(topic="hub", name="offline mode", state="ok", found=found)
    problem = None if offline else unreachable_reason()
    if not offline:
        yield Finding(
            topic="hub",
            name="connection",
            state="ok" if problem is None else "optional",
            found=problem or "the hub answers",
            remedy=None if problem is None else "check the connection and the proxy; what is in the cache can be used",
        )
    # Whether there is a token, never the token itself.
    has_token = get_token() is not None
    yield Finding(
        topic="hub",
        name="login",
        state="ok" if has_token else "optional",
        found="a token is set" if has_token else "no token: gated and private models, and `evovlm push`, need one",
        remedy=None if has_token else "hf auth login",
    )


def _assets() -> Iterator[Finding]:
    models = sorted(path.parent.name for path in asset_path("zoo").glob("*/*.safetensors"))
    yield Finding(
        topic="assets",
        name="embedded models",
        state="ok" if models else "broken",
        found=", ".join(models) or "none",
        remedy=None if models else "pip install --force-reinstall evovlm, or `evovlm zoo build` in a checkout",
    )
    font = noto_font()
    yield Finding(
        topic="assets",
        name="font Noto Color Emoji",
        state="ok" if font is not None else "optional",
        found=str(font) if font is not None else "not found: emoji samples with the tag noto are left out",
        remedy=None if font is not None else "apt-get install fonts-noto-color-emoji, or EVOVLM_NOTO_EMOJI=FILE",
    )
