"""Matches the language models of a merge: which of their tensors are merged, and which stay the host's."""

from collections.abc import Mapping
from dataclasses import replace

from evovlm.errors import ConfigError
from evovlm.merging.checkpoint.experts import Experts, ExpertsForm, expert_modules, form_of
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.recipes.families import BackbonePrefixes


def match_models(
    models: Mapping[str, NamedCheckpoint], *, declared: BackbonePrefixes | None = None
) -> Mapping[str, NamedCheckpoint]:
    """Return the models with layouts of the tensors that are merged: their core, and what else all of them have.

    What a text model has beside its core (learned positions, inputs for each layer) is merged if every model has it in
    the same shape; otherwise it stays the host's, like the vision encoder of a VLM. Experts have the form in which the
    host stores them. `models` are by their names in the recipe; models that share a checkpoint share it in the result,
    too. Raises ConfigError when no model has tensors
    where `declared` says.
    """
    if declared is not None and models and all(model.checkpoint.declared is None for model in models.values()):
        raise ConfigError(
            f"backbone: no model has tensors that begin with '{declared.body}{declared.blocks}'.\n    State the "
            "prefixes of the tensors as they are in the files, or leave `backbone` out."
        )
    checkpoints = {id(model.checkpoint): model.checkpoint for model in models.values()}
    if "host" in models:
        forms = _expert_forms(models["host"].checkpoint)
        checkpoints = {key: _with_experts_as(each, forms) for key, each in checkpoints.items()}
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


def _expert_forms(checkpoint: Checkpoint) -> Mapping[str, ExpertsForm]:
    """Return how each module of experts is stored, by what precedes the experts in backbone names."""
    own = checkpoint.backbone_places()
    found = {module: form_of(own, module) for module in expert_modules(own)}
    return {module: form for module, form in found.items() if form is not None}


def _with_experts_as(checkpoint: Checkpoint, forms: Mapping[str, ExpertsForm]) -> Checkpoint:
    """Return a checkpoint whose experts are stored in other forms: one by one, joined, or transposed."""
    own = checkpoint.backbone_places()
    names, places, core = dict(checkpoint.layout.names), dict(checkpoint.places), checkpoint.layout.core
    for module in sorted(expert_modules(own) & forms.keys()):
        experts = Experts.among(own, module)
        if experts is None:
            continue
        # Of another size, they do not fit, which is reported by their shapes.
        sizes = {name: getattr(experts.form, name) for name in ("n_experts", "inner", "hidden")}
        found = experts.in_form(replace(forms[module], **sizes))
        if found is experts:
            continue
        first = next(iter(experts.places))
        on_disk = names[module + first].removesuffix(first)
        for name in experts.places:
            del places[names.pop(module + name)]
        names |= {module + name: on_disk + name for name in found.places}
        places |= {on_disk + name: place for name, place in found.places.items()}
        core = (core - {module + name for name in experts.places}) | {module + name for name in found.places}
    if core is checkpoint.layout.core:
        return checkpoint
    return replace(checkpoint, places=places, layout=replace(checkpoint.layout, names=names, core=core))


def _without(checkpoint: Checkpoint, names: frozenset[str]) -> Checkpoint:
    return replace(checkpoint, layout=checkpoint.layout.without(names)) if names else checkpoint
