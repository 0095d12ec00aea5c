"""The table of engines, and which one answers: `builtin`, evovlm's own loop, or `vllm`.

A new engine is a file beside this one and a row here; tests/evaluation/test_engines.py then picks it up. Nothing here
imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evovlm.devices import SPREAD, count_gpus, device_name, is_cpu
from evovlm.errors import ConfigError
from evovlm.evaluation.engines import vllm, vllm_support
from evovlm.evaluation.engines.work import Load, Work

if TYPE_CHECKING:
    from evovlm.evaluation.engines.engine import Engine
    from evovlm.merging.merge import Merger
    from evovlm.models.loading import LoadedModel

AUTO = "auto"
BUILTIN = "builtin"
MOST_PARTS = 1_024
"""The most GPUs that a model is divided over."""
_NOT_INSTALLED = "no other engine is installed"
_OTHER_DIVISION = "Change tensor_parallel, or leave it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineId:
    """An engine and its version; that of `builtin` is None, because it has evovlm's version.

    It divides the model over `tensor_parallel` GPUs, on which the last bits of its sums depend.
    """

    name: str = BUILTIN
    version: str | None = None
    tensor_parallel: int = 1

    def __str__(self) -> str:
        name = self.name if self.version is None else f"{self.name} {self.version}"
        return name if self.tensor_parallel == 1 else f"{name} (tensor_parallel: {self.tensor_parallel})"

    def device_to_load(self, device: str) -> str:
        """Return where the host is loaded for this engine: one that is divided may be too large for a single GPU."""
        return SPREAD if self.tensor_parallel > 1 and not is_cpu(device_name(device)) else device


BUILTIN_ENGINE = EngineId()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """The engine that answers, why it does, and whether there was a choice."""

    engine: EngineId
    reason: str
    had_choice: bool

    @property
    def note(self) -> str:
        """One sentence for people."""
        return f"engine: {self.engine} answers, because {self.reason}."


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """An engine: its version here (None: not installed, or evovlm's own), what it cannot do, and how it is opened.

    `refusal` says why it cannot do some work, None where it can; `recognises` is the same for the model, and may take a
    minute to find out. `open` takes the number of GPUs over which the model is divided, and raises ConfigError for a
    model that the engine cannot hold.
    """

    version: Callable[[], str | None]
    refusal: Callable[[Work], str | None]
    recognises: Callable[[Work], str | None]
    open: Callable[[LoadedModel, Merger, Load, int], Engine]


def _open_builtin(loaded: LoadedModel, merger: Merger, _: Load, __: int) -> Engine:
    from evovlm.evaluation.engines.builtin import BuiltinEngine

    return BuiltinEngine.open(loaded, merger)


def _nothing(_: Any = None) -> None:
    return None


def _whole_only(work: Work) -> str | None:
    return None if work.tensor_parallel == 1 else "it does not divide a model over GPUs"


ENGINES: Mapping[str, EngineRow] = {
    BUILTIN: EngineRow(version=_nothing, refusal=_whole_only, recognises=_nothing, open=_open_builtin),
    "vllm": EngineRow(
        version=vllm_support.version,
        refusal=vllm_support.refusal,
        recognises=vllm_support.unknown_model,
        open=vllm.open_engine,
    ),
}


def check_engine_name(name: str) -> None:
    """Raise ConfigError for the name of an engine that is not in the table."""
    if name not in (AUTO, *ENGINES):
        raise ConfigError(f"engine: '{name}' is not known. Name one of {', '.join((AUTO, *ENGINES))}.")


def choose_engine(asked: str, work: Work) -> EngineChoice:
    """Return the engine for some work; `auto` is the fastest that is installed, has a GPU and can do the work.

    Raises ConfigError when an engine is named that is not known, not installed, or cannot do the work.
    """
    if asked == AUTO:
        return _automatic(work)
    check_engine_name(asked)
    refused = ENGINES[asked].refusal(work)
    if refused is not None:
        others = f"Set engine to {BUILTIN} or {AUTO}" if work.tensor_parallel == 1 else _OTHER_DIVISION
        raise ConfigError(f"engine: {asked} cannot answer: {refused}.\n    {others}.")
    engine = EngineId(name=asked, version=ENGINES[asked].version(), tensor_parallel=work.tensor_parallel)
    return EngineChoice(engine=engine, reason="it was asked for", had_choice=asked != BUILTIN)


def engine_able_to(work: Work, *, preferred: str) -> str:
    """Return the preferred engine where it can do the work, else `builtin`."""
    return preferred if preferred in ENGINES and ENGINES[preferred].refusal(work) is None else BUILTIN


def _automatic(work: Work) -> EngineChoice:
    reason = _NOT_INSTALLED
    for name, row in ENGINES.items():
        version = row.version()
        if version is None:
            continue
        on_gpu = work.device.partition(":")[0] in ("auto", "cuda") and count_gpus() > 0
        refused = row.refusal(work) or (None if on_gpu else "no GPU is used")
        refused = refused or row.recognises(work)
        if refused is None:
            engine = EngineId(name=name, version=version, tensor_parallel=work.tensor_parallel)
            why = "it is installed, a GPU is used, and it runs the model and the decoding"
            return EngineChoice(engine=engine, reason=why, had_choice=True)
        reason = f"for {name}, {refused}" if refused != "no GPU is used" else f"{name} is for GPUs, and {refused}"
    if work.tensor_parallel > 1:
        because = vllm_support.refusal(work) if reason == _NOT_INSTALLED else reason
        raise ConfigError(
            f"tensor_parallel: {work.tensor_parallel} needs the engine vllm, which engine: {AUTO} does not choose: "
            f"{because}.\n    Set engine to vllm, or leave tensor_parallel out."
        )
    return EngineChoice(engine=BUILTIN_ENGINE, reason=reason, had_choice=reason != _NOT_INSTALLED)
