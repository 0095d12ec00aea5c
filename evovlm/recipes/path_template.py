"""A merge in data-flow space without its path: what a search keeps fixed."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import ConfigError
from evovlm.recipes.canonical import check_source_names
from evovlm.recipes.kinds import PS, HybridMerge
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTemplate:
    """Sources, host and scale target of a path; the order of the sources is that in which a search lays them out.

    With `ps`, the result of that merge is a further source, called `ps` and laid out first, and the host where `host`
    is None. Raises ConfigError when the host is none of the sources, whose first and last block a path needs.
    """

    sources: Mapping[str, ModelRef]
    scale_target: ScaleTarget
    host: ModelRef | None = None
    ps: ParameterMerge | None = None

    def __post_init__(self) -> None:
        check_source_names(self.sources)
        if self.ps is not None and PS in self.sources:
            raise ConfigError(f"sources: '{PS}' is the first stage's result; give another name to the model.")
        object.__setattr__(self, "sources", dict(self.sources))
        self.host_source  # noqa: B018 - raises where there is none

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
            f"host: '{self.host.text}' is none of the sources, but a path begins with its first block and ends with "
            "its last.\n    Name it among the sources, too."
        )

    def first_blocks(self) -> LayerPath:
        """Return the path through the first block of every source: what it needs, every path of the search does."""
        return LayerPath(steps=tuple(LayerStep(source=name, layer=0) for name in self.source_names))

    def recipe(self, path: LayerPath) -> LayerPathMerge | HybridMerge:
        """Return the recipe that this template and a path make."""
        if self.ps is not None:
            return HybridMerge(
                ps=self.ps, host=self.host, sources=self.sources, path=path, scale_target=self.scale_target
            )
        if self.host is None:
            raise ConfigError("host: missing. Name the model that gives embedding, tokenizer and head.")
        return LayerPathMerge(host=self.host, sources=self.sources, path=path, scale_target=self.scale_target)
