"""Matches the language models of a merge: which of their tensors are merged, and which stay the host's."""

from collections.abc import Mapping
from dataclasses import replace

from evovlm.errors import ConfigError
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.recipes.families import BackbonePrefixes


def match_models(
    models: Mapping[str, NamedCheckpoint], *, declared: BackbonePrefixes | None = None
) -> Mapping[str, NamedCheckpoint]:
    """Return the models with layouts of the tensors that are merged: their core, and what else all of them have.

    What a text model has beside its core (learned positions, inputs for each layer) is merged if every model has it in
    the same shape; otherwise it stays the host's, like the vision encoder of a VLM. `models` are by their names in the
    recipe; models that share a checkpoint share it in the result, too. Raises ConfigError when no model has tensors
    where `declared` says.
    """
    if declared is not None and models and all(model.checkpoint.declared is None for model in models.values()):
        raise ConfigError(
            f"backbone: no model has tensors that begin with '{declared.body}{declared.blocks}'.\n    State the "
            "prefixes of the tensors as they are in the files, or leave `backbone` out."
        )
    checkpoints = {id(model.checkpoint): model.checkpoint for model in models.values()}
    shared = _shared_further(list(checkpoints.values()))
    narrowed = {
        key: _without(checkpoint, frozenset(checkpoint.layout.names) - checkpoint.layout.core - shared)
        for key, checkpoint in checkpoints.items()
    }
    return {name: replace(model, checkpoint=narrowed[id(model.checkpoint)]) for name, model in models.items()}


def _shared_further(checkpoints: list[Checkpoint]) -> frozenset[str]:
    """Return the tensors beside the core that all models have in one shape."""
    if not checkpoints:
        return frozenset()
    further = [
        {name: each.shape(name) for name in each.layout.names if name not in each.layout.core} for each in checkpoints
    ]
    first, *others = further
    return frozenset(name for name, shape in first.items() if all(each.get(name) == shape for each in others))


def _without(checkpoint: Checkpoint, names: frozenset[str]) -> Checkpoint:
    return replace(checkpoint, layout=checkpoint.layout.without(names)) if names else checkpoint
