"""A loaded model taken apart for decoding and for writing merged tensors into it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evovlm.errors import UnknownArchitecture
from evovlm.models.loading import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backbone:
    """The language model inside a loaded model: its decoder stack (with embedding and final norm) and its head."""

    decoder: Any
    head: nn.Module
    embedding: nn.Embedding

    @property
    def device(self) -> torch.device:
        """The device of its embedding, where its input must be."""
        return self.embedding.weight.device

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Backbone":
        """Find the backbone. Raises UnknownArchitecture for a model without a decoder and a separate head."""
        model = loaded.model
        body = getattr(model, "model", None)
        decoder = getattr(body, "language_model", body) if loaded.sees else body
        head = getattr(model, "lm_head", None)
        if decoder is None or head is None or not hasattr(decoder, "layers"):
            raise UnknownArchitecture(
                f"{loaded.folder}: {type(model).__name__} is not a decoder with a separate head, which a "
                "search needs.\n    Name a model that generates text: `architectures` of its config.json ends in "
                "ForCausalLM or ForConditionalGeneration."
            )
        return cls(decoder=decoder, head=head, embedding=model.get_input_embeddings())


class ParameterWriter:
    """Copies merged tensors into a model's parameters, in place.

    `names` says which parameter each backbone tensor is; raises UnknownArchitecture when the model lacks one.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        missing = sorted(set(names.values()) - set(parameters))
        if missing:
            raise UnknownArchitecture(f"{type(model).__name__} has no parameter {missing[0]} to merge into.")
        self._parameters = {name: parameters[place] for name, place in names.items()}

    def in_place(self, name: str) -> npt.NDArray[np.float32] | None:
        """Return the parameter's own memory, flat, if numpy can write to it (on a CPU, in float32), else None."""
        parameter = self._parameters[name]
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not parameter.is_contiguous():
            return None
        memory: npt.NDArray[np.float32] = parameter.detach().view(-1).numpy()
        return memory

    def on_device(self, name: str) -> Tensor:
        """Return the parameter's own memory, flat, on any device."""
        return self._parameters[name].detach().view(-1)

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Copy entries (row-major, from number `start` on) in the parameter's dtype and onto its device."""
        with torch.no_grad():
            self._parameters[name].view(-1)[start : start + len(values)].copy_(values)
