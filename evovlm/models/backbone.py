"""A loaded model taken apart for decoding and for writing merged tensors into it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evovlm.errors import UnknownArchitecture
from evovlm.models.loading import LoadedModel
from evovlm.models.stored_views import find_parameters

_LAYERS = ("layers", "h")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backbone:
    """The language model inside a loaded model: its decoder stack (with embedding and final norm) and its head.

    `model` is the whole model; `layers` are the decoder's blocks, None for a model that does not list them.
    """

    model: Any
    decoder: Any
    head: nn.Module
    embedding: nn.Embedding
    layers: nn.ModuleList | None

    @property
    def device(self) -> torch.device:
        """The device of its embedding, where its input must be."""
        return self.embedding.weight.device

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Backbone":
        """Find the backbone. Raises UnknownArchitecture for a model without a decoder and a separate head."""
        model = loaded.model
        decoder, head = model.get_decoder(), model.get_output_embeddings()
        if decoder is model or not hasattr(decoder, "config"):
            # Such a class does not name its decoder: it is the part under the head.
            decoder = getattr(model, "model", None)
        if decoder is None or head is None:
            raise UnknownArchitecture(
                f"{loaded.folder}: {type(model).__name__} is not a decoder with a separate head, which a "
                "search needs.\n    Name a model that generates text: `architectures` of its config.json ends in "
                "ForCausalLM or ForConditionalGeneration."
            )
        listed = [getattr(decoder, name, None) for name in _LAYERS]
        layers = next((each for each in listed if isinstance(each, nn.ModuleList)), None)
        return cls(model=model, decoder=decoder, head=head, embedding=model.get_input_embeddings(), layers=layers)


class ParameterWriter:
    """Copies merged tensors into a model's parameters, in place.

    `names` maps backbone names to names in the model's files, `shapes` to shapes there. Raises UnknownArchitecture when
    the model does not keep one of these tensors in memory as it is stored.
    """

    def __init__(self, model: nn.Module, names: Mapping[str, str], *, shapes: Mapping[str, Sequence[int]]) -> None:
        self._parameters = find_parameters(model, names, shapes=shapes)

    def in_place(self, name: str) -> npt.NDArray[np.float32] | None:
        """Return the parameter's own memory, flat, if numpy can write to it (on a CPU, in float32), else None."""
        parameter = self._parameters[name]
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32 or not parameter.is_contiguous():
            return None
        memory: npt.NDArray[np.float32] = parameter.view(-1).numpy()
        return memory

    def on_device(self) -> Mapping[str, Tensor]:
        """Return the parameters' own memory, flat, on any device; those that lie in another order are left out."""
        return {name: each.view(-1) for name, each in self._parameters.items() if each.is_contiguous()}

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Copy entries (row-major, from number `start` on) in the parameter's dtype and onto its device."""
        parameter = self._parameters[name]
        with torch.no_grad():
            if parameter.is_contiguous():
                parameter.view(-1)[start : start + len(values)].copy_(values)
            else:
                _write_by_row(parameter, start, values)


def _write_by_row(parameter: Tensor, start: int, values: Tensor) -> None:
    """Copy entries into matrices whose memory has another order: part of a row, or as many whole rows as there are."""
    matrices = parameter if parameter.dim() == 3 else parameter[None]
    _, rows, columns = matrices.shape
    done = 0
    while done < len(values):
        row, column = divmod(start + done, columns)
        matrix, row = divmod(row, rows)
        if column or len(values) - done < columns:
            count = min(columns - column, len(values) - done)
            matrices[matrix, row, column : column + count].copy_(values[done : done + count])
        else:
            whole = min(rows - row, (len(values) - done) // columns)
            count = whole * columns
            matrices[matrix, row : row + whole].copy_(values[done : done + count].view(whole, columns))
        done += count
