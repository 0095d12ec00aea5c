"""The engine `builtin`: merges go into the parameters of a transformers model, and evovlm's own loop answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from evovlm.devices import Explained, triton_problem
from evovlm.errors import UnknownArchitecture
from evovlm.merging.arithmetic import kernels
from evovlm.merging.arithmetic.buffers import Raw, widen
from evovlm.merging.merge import Merger
from evovlm.merging.merged_tensors import MergedTensors
from evovlm.merging.models.structure import HEAD
from evovlm.models.backbone import ParameterWriter
from evovlm.models.decoding import generation
from evovlm.models.decoding.generation import Generated
from evovlm.models.decoding.stock import DecodingSettings
from evovlm.models.loading import LoadedModel, load_like
from evovlm.models.prompt import Prompt
from evovlm.thoughts import ThoughtMarks

if TYPE_CHECKING:
    from evovlm.merging.gpu import GpuMerger

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class BuiltinEngine:
    """A loaded model that answers. Opened with `open` it takes candidates; made from a model alone, it is that model.

    It takes candidates with another `config_from` too: then `loaded` is another model over the same parameters.
    """

    loaded: LoadedModel
    _writer: ParameterWriter | None = None
    _gpu: GpuMerger | None = None
    _variants: dict[str | None, LoadedModel] = field(default_factory=dict)

    @classmethod
    def open(cls, loaded: LoadedModel, merger: Merger) -> BuiltinEngine:
        """Return the engine for candidates of `merger`, whose host is loaded. Raises as `ParameterWriter` does."""
        layout = merger.host.layout
        writer = ParameterWriter(
            loaded.model,
            {name: layout.disk_name(name) for name in merger.tensor_names},
            shapes={name: merger.host.shape(name) for name in merger.tensor_names},
        )
        sink = ParameterSink(writer)
        if HEAD in merger.result.tensor_names and layout.tied:
            # A head that the host does not have starts as the embedding, which the host uses as its head.
            writer.write(HEAD, 0, merger.host.read(HEAD).flatten())
        for name, start, values in merger.new_rows():
            sink.write(name, start, values)
        known: dict[str | None, LoadedModel] = {merger.template.config_from: loaded}
        return cls(loaded=loaded, _writer=writer, _gpu=_gpu_merger(loaded, merger, writer), _variants=known)

    def become(self, tensors: MergedTensors) -> bool:
        """Write the merge into the parameters; see `Engine`.

        The tensors are rounded to the host's stored dtype, so that the model computes what the checkpoint of `evovlm
        merge` would, also on a CPU, where parameters are float32.
        """
        if self._writer is None:
            raise UnknownArchitecture(f"{self.loaded.folder}: was opened as it is, and does not take merges.")
        self.loaded = self._loaded_as(tensors.merger)
        sink = ParameterSink(self._writer)
        if self._gpu is not None:
            return self._gpu.variant(tensors.merger).merge(tensors.recipe, sink) and sink.finite
        tensors.write_to(sink)
        return sink.finite

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        decoding: DecodingSettings,
        marks: ThoughtMarks | None = None,
        on_answers: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """See Engine."""
        return generation.generate(self.loaded, prompts, decoding=decoding, marks=marks, on_answers=on_answers)

    def close(self) -> None:
        """Do nothing: the memory is that of the model, which the caller may still use."""

    def _loaded_as(self, merger: Merger) -> LoadedModel:
        config_from = merger.template.config_from
        if config_from not in self._variants:
            self._variants[config_from] = load_like(self.loaded, config=merger.result.config)
        return self._variants[config_from]


def _gpu_merger(loaded: LoadedModel, merger: Merger, writer: ParameterWriter) -> GpuMerger | None:
    """Return what merges on the model's GPU; None where the CPU merges.

    The CPU merges for a model on a CPU, on several devices, or on a GPU where Triton cannot be used.
    """
    if loaded.device.type != "cuda" or loaded.is_spread:
        return None
    problem = triton_problem()
    if problem is not None:
        _say_that_the_cpu_merges(problem)
        return None
    # Needs Triton, which an installation for a CPU may lack.
    from evovlm.merging.gpu import GpuMerger

    return GpuMerger(merger, writer.on_device())


@cache
def _say_that_the_cpu_merges(problem: Explained) -> None:
    """Log why, once in this process."""
    _log.warning(
        "merges are computed on the CPU and copied to the GPU, which is slower: %s. To merge on the GPU: %s.",
        problem.reason,
        problem.remedy,
    )


@dataclass(slots=True, eq=False)
class ParameterSink:
    """Writes merged entries into the parameters, and notes whether all are finite."""

    parameters: ParameterWriter
    finite: bool = True

    def write(self, name: str, start: int, values: Raw) -> None:
        target = self.parameters.in_place(name)
        if target is not None:
            part = target[start : start + len(values)]
            widen(values, part)
        else:
            part = np.empty(len(values), dtype=np.float32)
            widen(values, part)
            bits = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if values.dtype == np.uint16 else None
            self.parameters.write(name, start, torch.from_numpy(values) if bits is None else bits)
        if not kernels.is_finite(part):
            # Only ever set to False, so that threads need no lock.
            self.finite = False
