"""Looks at the machine that evovlm is to run on: what is there, what is missing, and the command that helps."""

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from evovlm import __version__
from evovlm.assets import asset_path
from evovlm.recipes.hub import cache_folder
from evovlm.resources import available_memory_bytes, free_disk_bytes
from evovlm.tasks.emoji_pictures import noto_font

State = Literal["ok", "optional", "broken"]

_IMPORTED = ("torch", "transformers", "numba", "safetensors", "datasets", "cma")
"""What nothing works without; a package may be installed and still not load (a library of the system that lacks)."""
_FREE_WANTED_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at: `found` is what there is; `remedy` is the command or step that mends what is not."""

    topic: str
    name: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything found; `is_well` when nothing essential is broken."""

    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether evovlm can run here."""
        return all(finding.state != "broken" for finding in self.findings)

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {"ok": self.is_well, "findings": [asdict(finding) for finding in self.findings]}


def examine(folder: Path) -> Examination:
    """Look at the machine; `folder` is where results would be written. Asks no network, prints no secret."""
    loading = tuple(_loading())
    torch_loads = all(finding.name != "torch loads" for finding in loading)
    return Examination(
        findings=(
            *_versions(),
            *loading,
            *(_devices() if torch_loads else ()),
            *_room(folder),
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
        found = "runs from a folder; what it needs is not looked up"
        yield Finding(topic="versions", name="install", state="optional", found=found, remedy="pip install evovlm")
        return
    for text in needed:
        requirement = Requirement(text)
        if requirement.marker is None:
            yield _package(requirement, extra=None)
        elif not requirement.marker.evaluate({"extra": "dev"}) and requirement.marker.evaluate({"extra": "lm-eval"}):
            yield _package(requirement, extra="lm-eval")


def _package(requirement: Requirement, *, extra: str | None) -> Finding:
    """Look for a package that is needed, or wanted by an extra."""
    wrong: State = "broken" if extra is None else "optional"
    what = f"{requirement.name}{requirement.specifier}" if extra is None else f"evovlm[{extra}]"
    install = f'pip install "{what}"'
    name = requirement.name if extra is None else f"{requirement.name} (extra {extra})"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(topic="versions", name=name, state=wrong, found="not installed", remedy=install)
    if not requirement.specifier.contains(version, prereleases=True):
        found = f"{version}, and {requirement.specifier} is needed"
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


def _devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{cores} cores, {torch.get_num_threads()} threads of torch"
    yield Finding(topic="devices", name="cpu", state="ok", found=f"{platform.machine()}, {threads}")
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        yield Finding(
            topic="devices",
            name="gpu",
            state="optional",
            found="none" if built else "none (this torch was built without)",
            remedy="models of 7B and more want one: see https://pytorch.org/get-started/locally/",
        )
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield Finding(topic="devices", name=f"cuda:{index}", state="ok", found=found)


def _room(folder: Path) -> Iterator[Finding]:
    memory = available_memory_bytes()
    yield _amount("memory", memory, "close other programs, or take a larger machine")
    yield _amount(f"disk of {folder.absolute()}", free_disk_bytes(folder), "free some space, or work on another disk")
    cache = cache_folder()
    there = f"disk of the hub's cache, {cache}"
    yield _amount(there, free_disk_bytes(cache), "free some space, or name another folder in HF_HOME")


def _amount(name: str, size_bytes: int | None, remedy: str) -> Finding:
    if size_bytes is None:
        return Finding(topic="room", name=name, state="ok", found="cannot be told here")
    enough = size_bytes >= _FREE_WANTED_BYTES
    found = f"{size_bytes / 1e9:.1f} GB free"
    return Finding(
        topic="room", name=name, state="ok" if enough else "optional", found=found, remedy=None if enough else remedy
    )


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token

    yield Finding(topic="hub", name="address", state="ok", found=str(constants.ENDPOINT))
    cache = cache_folder()
    place = next(path for path in (cache, *cache.parents) if path.exists())
    may_write = os.access(place, os.W_OK)
    yield Finding(
        topic="hub",
        name="cache",
        state="ok" if may_write else "broken",
        found=f"{cache}{'' if cache.exists() else ' (not there yet)'}{'' if may_write else ', may not be written'}",
        remedy=None if may_write else "name a folder of your own in HF_HOME",
    )
    offline = bool(constants.HF_HUB_OFFLINE)
    found = "on: nothing is fetched (HF_HUB_OFFLINE)" if offline else "off"
    yield Finding(topic="hub", name="offline mode", state="ok", found=found)
    # Whether there is one, never what it is.
    has_token = get_token() is not None
    yield Finding(
        topic="hub",
        name="login",
        state="ok" if has_token else "optional",
        found="a token is there" if has_token else "no token: gated and private models, and `evovlm push`, need one",
        remedy=None if has_token else "hf auth login",
    )


def _assets() -> Iterator[Finding]:
    models = sorted(path.parent.name for path in asset_path("zoo").glob("*/config.json"))
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
        found=str(font) if font is not None else "not there: the emoji tasks' samples tagged noto have no picture",
        remedy=None if font is not None else "apt-get install fonts-noto-color-emoji, or EVOVLM_NOTO_EMOJI=FILE",
    )
