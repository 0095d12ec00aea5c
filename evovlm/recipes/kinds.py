"""The kinds of recipe (in parameter space, in data-flow space, one after the other), and templates of paths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from evovlm.errors import ConfigError
from evovlm.recipes.choices import chat_choices, given_choices
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.layer_path import PATH_CHOICES, LayerPath, LayerPathMerge, LayerStep, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import (
    Dtype,
    MergeTemplate,
    ParameterMerge,
    check_source_names,
    recipe_digest,
)

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
    def first_stage(self) -> ParameterMerge:
        """The merge whose result is a source of the path."""
        return self.ps

    @property
    def recipe_id(self) -> str:
        """The hash of everything that the recipe says: 12 hexadecimal digits."""
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

    @property
    def made_by(self) -> str:
        """How the result is made, as the end of the sentence "made ..."."""
        return f"{self.ps.made_by}, then as a path of {len(self.path)} blocks"

    def models(self) -> Mapping[str, ModelRef]:
        """Return every model that the result takes something from, by its part (`stages.ps.host`)."""
        first = {f"stages.{PS}.{part}": ref for part, ref in self.ps.models().items()}
        host = {"stages.path.host": self.host} if self.host is not None else {}
        used = {f"stages.path.sources.{name}": self.sources[name] for name in self.path.sources if name != PS}
        return {**first, **host, **used}

    def as_values(self, text: Callable[[ModelRef], str] = lambda ref: ref.text) -> dict[str, Any]:
        """Return the recipe as the plain values of its file; `text` says how a model is written."""
        first = self.ps.as_values(text)
        del first["format"]
        second = {
            "kind": "layer_path",
            **({} if self.host is None else {"host": text(self.host)}),
            "sources": {name: text(ref) for name, ref in self.sources.items()},
            "scale_target": self.scale_target,
            "path": self.path.canonical(),
        }
        return {"format": 1, "kind": "hybrid", "stages": {PS: first, "path": second}}

    def path_merge(self, ps: ModelRef) -> LayerPathMerge:
        """Return the second stage, for a first stage whose result lies at `ps`."""
        return LayerPathMerge(
            host=self.host or ps,
            sources={PS: ps, **self.sources},
            path=self.path,
            scale_target=self.scale_target,
            backbone=self.ps.backbone,
        )


Recipe: TypeAlias = ParameterMerge | LayerPathMerge | HybridMerge


def parameter_merge_only(recipe: Recipe) -> ParameterMerge:
    """Return the recipe; raises ConfigError when it is of another kind."""
    if recipe.path is not None:
        raise ConfigError(f"recipe {recipe.recipe_id} leads through layers; here a merge of parameters is needed.")
    return recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTemplate:
    """Sources, host and scale target of a path; a search lays out the blocks of the sources in this order.

    With `ps`, the result of that merge is a further source, called `ps` and laid out first, and the host where `host`
    is None; it then also says the dtype, chat and backbone. Raises ConfigError when the host is not among the sources,
    because a path needs its first and last block, and for a choice that `ps` makes.
    """

    sources: Mapping[str, ModelRef]
    scale_target: ScaleTarget
    host: ModelRef | None = None
    ps: ParameterMerge | None = None
    dtype: Dtype | None = None
    chat_template: str | None = None
    generation: str | None = None
    backbone: BackbonePrefixes | None = None

    keeps_every_source: ClassVar[Literal[True]] = True
    """Whether a search holds every source in memory, rather than one merged model."""

    def __post_init__(self) -> None:
        check_source_names(self.sources)
        if self.ps is not None and PS in self.sources:
            raise ConfigError(f"sources: '{PS}' is the first stage's result; give another name to the model.")
        object.__setattr__(self, "sources", dict(self.sources))
        self.host_source  # noqa: B018 - raises where it is missing
        given = given_choices(self, PATH_CHOICES)
        if self.ps is not None and given:
            raise ConfigError(f"{next(iter(given))}: the first stage (`{PS}`) says it for both; write it there.")
        for name, choice in chat_choices(self.chat_template, self.generation, known=sorted(self.sources)).items():
            object.__setattr__(self, name, choice)

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of all sources, in their order."""
        return (*([PS] if self.ps is not None else []), *self.sources)

    @property
    def host_source(self) -> str:
        """The source that the host is."""
        if self.host is None:
            if self.ps is None:
                raise ConfigError("host: missing. Name the model that gives embedding, tokenizer and head.")
            return PS
        for name, ref in self.sources.items():
            if ref.identity == self.host.identity:
                return name
        raise ConfigError(
            f"host: '{self.host.text}' is not among the sources, but a path begins with its first block and ends "
            "with its last.\n    Name it among the sources, too."
        )

    @property
    def shaped_like(self) -> Mapping[str, str]:
        """For each source, the part of the recipe whose model has as many blocks; a first stage's result is its host's.

        Parts are named as `check` names them (`ps.host`, `sources.ja`).
        """
        return {name: "ps.host" if name == PS else f"sources.{name}" for name in self.source_names}

    def source_models(self) -> Mapping[str, ModelRef]:
        """Return for each source, in order, a model of its shape: for a first stage's result, that stage's host."""
        return {**({PS: self.ps.host} if self.ps else {}), **self.sources}

    @property
    def host_model(self) -> ModelRef:
        """The host, or for a first stage's result the model that has its config and tokenizer."""
        return self.source_models()[self.host_source]

    def first_recipe(self) -> LayerPathMerge | HybridMerge:
        """Return a recipe of this template that needs every one of its models: through the first block of each."""
        return self.recipe(LayerPath(steps=tuple(LayerStep(source=name, layer=0) for name in self.source_names)))

    def recipe(self, path: LayerPath) -> LayerPathMerge | HybridMerge:
        """Return the recipe that this template and a path make."""
        if self.ps is not None:
            return HybridMerge(
                ps=self.ps, host=self.host, sources=self.sources, path=path, scale_target=self.scale_target
            )
        if self.host is None:
            raise ConfigError("host: missing. Name the model that gives embedding, tokenizer and head.")
        return LayerPathMerge(
            host=self.host,
            sources=self.sources,
            path=path,
            scale_target=self.scale_target,
            dtype=self.dtype,
            chat_template=self.chat_template,
            generation=self.generation,
            backbone=self.backbone,
        )


Template: TypeAlias = MergeTemplate | PathTemplate
"""What a search keeps fixed of every recipe."""
