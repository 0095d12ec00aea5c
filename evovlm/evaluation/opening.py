"""Loads the models that references name: as they are in their folders, with an adapter, or quantised ones as floats."""

from dataclasses import dataclass
from typing import Any

import torch

from evovlm.errors import BrokenCheckpoint, UnknownArchitecture
from evovlm.merging.checkpoint.quantised import speaks_of_quantisation
from evovlm.merging.checkpoint.safetensors_file import TensorPlace
from evovlm.merging.checkpoint.sources import Checkpoint, find_adapter
from evovlm.models.loading import LoadedModel, Override, Weights, load_model
from evovlm.recipes.model_config import read_model_config
from evovlm.recipes.model_ref import ModelRef


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A tensor at its place, in the form in which transformers takes one."""

    place: TensorPlace

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self.place.read()


def load_reference(ref: ModelRef, *, device: str = "auto", dtype: str | None = None) -> LoadedModel:
    """Load the model that a reference names, with its adapter; its floats are rounded to `dtype` (None: as stored).

    Raises what opening and loading models raises.
    """
    checkpoint = _computed(ref) if dtype is None else Checkpoint.open_model(ref).cast_to(dtype)
    if checkpoint is None or not (checkpoint.is_computed or checkpoint.has_own_config):
        return load_model(ref.resolve(), device=device)
    override = Override(
        config=checkpoint.config,
        head_follows=False,
        tokenizer=checkpoint.tokenizer_folder,
        weights=computed_weights(checkpoint),
    )
    return load_model(checkpoint.folder, device=device, override=override)


def _computed(ref: ModelRef) -> Checkpoint | None:
    """Return the opened model where transformers cannot read its weights from its folder."""
    if find_adapter(ref)[1] is not None:
        return Checkpoint.open_model(ref)
    folder = ref.resolve()
    if not speaks_of_quantisation(read_model_config(folder)):
        return None
    try:
        found = Checkpoint.open(folder)
    except (BrokenCheckpoint, UnknownArchitecture):
        # A kind of quantisation that only transformers may know.
        return None
    return found if found.has_own_config else None


def computed_weights(checkpoint: Checkpoint) -> Weights | None:
    """Return the weights of a checkpoint for loading, None where transformers can read them from its folder."""
    if not checkpoint.is_computed:
        return None
    return Weights(
        config=checkpoint.config,
        tensors={name: _Lazy(place) for name, place in checkpoint.places.items()},
        shapes={name: place.shape for name, place in checkpoint.places.items()},
    )
