"""The blocks of several models in memory, through which one path after another leads; no candidate moves a weight."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evovlm.errors import ConfigError
from evovlm.evaluation.resident import load_merged
from evovlm.models.layer_stack import LayerStack
from evovlm.models.loading import LoadedModel, load_model
from evovlm.recipes.kinds import PS, HybridMerge, Recipe
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.local_config import read_config, stored_dtype
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.path_template import PathTemplate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResidentStack:
    """A template's sources as one stack of blocks inside its host; open it with `ResidentStack.open`."""

    template: PathTemplate
    _stack: LayerStack

    @classmethod
    def open(cls, template: PathTemplate, *, device: str = "auto") -> "ResidentStack":
        """Load every source, a first stage's merge included. Raises what loading and `LayerStack` raise."""
        loaded: dict[str, LoadedModel] = {}
        sources: dict[str, LoadedModel] = {}
        if template.ps is not None:
            sources[PS] = load_merged(template.ps, device=device)
        for name, ref in template.sources.items():
            if ref.identity not in loaded:
                loaded[ref.identity] = load_model(ref.resolve(), device=device)
            sources[name] = loaded[ref.identity]
        host = sources[template.host_source]
        return cls(template=template, _stack=LayerStack(host, sources, stored=_stored_dtype(host)))

    @property
    def loaded(self) -> LoadedModel:
        """The host with the path's blocks."""
        return self._stack.loaded

    @property
    def warnings(self) -> tuple[str, ...]:
        """Nothing: models that do not fit are refused."""
        return ()

    @property
    def blocks(self) -> Mapping[str, int]:
        """How many blocks each source has, in the order in which a search lays them out."""
        return {name: self._stack.count_blocks(name) for name in self.template.source_names}

    def check(self, recipe: Recipe) -> None:
        """Raise ConfigError for a recipe that is none of this stack's template."""
        self._checked(recipe)

    def merge(self, recipe: Recipe) -> bool:
        """Lead the model through the recipe's path; return True. Raises ConfigError as `check` does."""
        found = self._checked(recipe)
        self._stack.take(found.path, found.scale_target)
        return True

    def _checked(self, recipe: Recipe) -> LayerPathMerge | HybridMerge:
        if not isinstance(recipe, LayerPathMerge | HybridMerge) or recipe != self.template.recipe(recipe.path):
            raise ConfigError(f"recipe {recipe.recipe_id} is not a path through the models of this search.")
        return recipe


def _stored_dtype(host: LoadedModel) -> torch.dtype | None:
    """Return the dtype of the host's checkpoint, which blocks of other models are rounded to."""
    name = stored_dtype(read_config(ModelRef(text=str(host.folder))) or {})
    return None if name is None else getattr(torch, name)
