"""The kinds of recipe: parameter space, data-flow space, and the one after the other."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import ConfigError
from evovlm.recipes.canonical import check_source_names, recipe_digest
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge

PS = "ps"
"""What the result of a hybrid's first stage is called in its second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridMerge:
    """A merge in parameter space, whose result is then a source (named `ps`) of a path through several models.

    `sources` are the further sources of the path; `host` is the path's host (None: the first stage's result).
    Raises ConfigError for a path through an unknown source, or when a further source is called `ps`.
    """

    ps: ParameterMerge
    sources: Mapping[str, ModelRef]
    path: LayerPath
    scale_target: ScaleTarget
    host: ModelRef | None = None

    def __post_init__(self) -> None:
        check_source_names(self.sources)
        if PS in self.sources:
            raise ConfigError(f"sources: '{PS}' is the first stage's result; give another name to the model.")
        self.path.check_sources((PS, *self.sources))
        object.__setattr__(self, "sources", dict(self.sources))

    @property
    def recipe_id(self) -> str:
        """12 hexadecimal digits that stand for everything the recipe says."""
        return recipe_digest(
            {
                "kind": "hybrid",
                "ps": self.ps.recipe_id,
                "host": self.host.identity if self.host else None,
                "sources": {name: ref.identity for name, ref in self.sources.items()},
                "path": self.path.canonical(),
                "scale_target": self.scale_target,
            }
        )

    def path_merge(self, ps: ModelRef) -> LayerPathMerge:
        """Return the second stage, for a first stage whose result lies at `ps`."""
        return LayerPathMerge(
            host=self.host or ps, sources={PS: ps, **self.sources}, path=self.path, scale_target=self.scale_target
        )


Recipe = ParameterMerge | LayerPathMerge | HybridMerge


def models_of(recipe: Recipe) -> Mapping[str, ModelRef]:
    """Return every model that the result takes something from, by its part in the recipe (`host`, `sources.ja`)."""
    match recipe:
        case LayerPathMerge():
            return recipe.models()
        case HybridMerge():
            first = {f"stages.ps.{part}": ref for part, ref in models_of(recipe.ps).items()}
            host = {"stages.path.host": recipe.host} if recipe.host is not None else {}
            used = {name: recipe.sources[name] for name in recipe.path.sources if name != PS}
            return {**first, **host, **{f"stages.path.sources.{name}": ref for name, ref in used.items()}}
        case _:
            base = {"base": recipe.base} if recipe.base is not None else {}
            sources = {f"sources.{name}": ref for name, ref in recipe.sources.items()}
            return {"host": recipe.host, **base, **sources}


def parameter_merge_only(recipe: Recipe) -> ParameterMerge:
    """Return the recipe; raises ConfigError when it is of another kind."""
    if not isinstance(recipe, ParameterMerge):
        raise ConfigError(f"recipe {recipe.recipe_id} leads through layers; here a merge of parameters is needed.")
    return recipe
