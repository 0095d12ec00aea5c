"""The blocks of several models in memory, through which one path after another leads; no candidate moves a weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import ConfigError
from evovlm.evaluation.resident_path import open_recipe_stack
from evovlm.models.layer_stack import LayerStack
from evovlm.models.loading import LoadedModel
from evovlm.recipes.kinds import HybridMerge, Recipe
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.path_template import PathTemplate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResidentStack:
    """A template's sources as one stack of blocks inside its host; open it with `ResidentStack.open`."""

    template: PathTemplate
    _stack: LayerStack

    @classmethod
    def open(cls, template: PathTemplate, *, device: str = "auto") -> "ResidentStack":
        """Load every source, a first stage's merge included. Raises what `open_recipe_stack` raises."""
        return cls(template=template, _stack=open_recipe_stack(template.recipe(template.first_blocks()), device=device))

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
        if isinstance(recipe, LayerPathMerge | HybridMerge):
            own = self.template.recipe(recipe.path)
            if own.recipe_id == recipe.recipe_id:
                return own
        raise ConfigError(f"recipe {recipe.recipe_id} is not a path through the models of this search.")
