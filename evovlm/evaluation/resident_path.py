"""Recipes of every kind as models in memory: here paths through layers, whose blocks stay where they were loaded."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from evovlm.evaluation.resident import load_merged
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.paths.plan import path_problems
from evovlm.models.layer_stack import LayerStack
from evovlm.models.loading import LoadedModel, load_model
from evovlm.recipes.kinds import PS, HybridMerge, Recipe
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.local_config import read_config, stored_dtype
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge


def load_recipe_model(recipe: Recipe, *, device: str = "auto") -> LoadedModel:
    """Return the model that a recipe describes, made in memory and written nowhere.

    Raises ConfigError when its weights are not finite or a block is not there, ModelError when a model cannot be
    reached, read or combined with the others.
    """
    if isinstance(recipe, ParameterMerge):
        return load_merged(recipe, device=device)
    stack = open_recipe_stack(recipe, device=device)
    stack.take(recipe.path, recipe.scale_target)
    return stack.loaded


def open_recipe_stack(recipe: LayerPathMerge | HybridMerge, *, device: str = "auto") -> LayerStack:
    """Load the sources that a path leads through, a first stage's result among them, for any path through them.

    Raises what `load_recipe_model` raises.
    """
    if isinstance(recipe, HybridMerge):
        return _open_hybrid(recipe, device=device)
    check_models(recipe)
    used = {name: recipe.sources[name] for name in recipe.path.sources}
    return open_stack(recipe.host, used, device=device)


def open_stack(host: ModelRef, sources: Mapping[str, ModelRef], *, device: str = "auto") -> LayerStack:
    """Load the host and the sources (each model once) for paths through them.

    Raises IncompatibleModels when the blocks do not fit, and what opening and loading models raises.
    """
    named = {"": host, **sources}
    loaded: dict[Path, LoadedModel] = {}
    for ref in named.values():
        folder = ref.resolve()
        if folder not in loaded:
            loaded[folder] = load_model(folder, device=device)
    models = {name: loaded[ref.resolve()] for name, ref in named.items()}
    return LayerStack(models.pop(""), models, stored=_stored(host))


def _open_hybrid(recipe: HybridMerge, *, device: str) -> LayerStack:
    # The first stage has its host's shapes: what does not fit is found before anything is merged.
    check_models(recipe.path_merge(recipe.ps.host))
    merged = load_merged(recipe.ps, device=device)
    load = partial(load_model, device=device)
    sources = {name: load(recipe.sources[name].resolve()) for name in recipe.path.sources if name != PS}
    host = merged if recipe.host is None else load(recipe.host.resolve())
    used = {PS: merged} if PS in recipe.path.sources else {}
    return LayerStack(host, {**used, **sources}, stored=_stored(recipe.host or recipe.ps.host))


def check_models(recipe: LayerPathMerge) -> None:
    """Raise what keeps the blocks of the path from following each other in the host; weights stay on disk."""
    models = {
        name: NamedCheckpoint(name=name, text=ref.text, checkpoint=Checkpoint.open_headers(ref))
        for name, ref in recipe.models().items()
    }
    for problem in path_problems(recipe, models):
        raise problem


def _stored(host: ModelRef) -> torch.dtype | None:
    """Return the dtype that the host's checkpoint has, None when its config does not tell."""
    config = read_config(host)
    name = stored_dtype(config) if config is not None else None
    found = getattr(torch, name) if name is not None else None
    return found if isinstance(found, torch.dtype) else None
