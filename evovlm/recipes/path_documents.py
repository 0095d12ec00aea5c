"""A path through layers as YAML text.

format: 1
kind: layer_path
host: zoo:base
sources: {math: zoo:math-a, ja: zoo:ja}
scale_target: stream
path:
  - [ja, 0, 1.0]
  - [math, 1, 0.93]
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.recipes.document_parts import RELATIVE_TO, Document, ModelText, SourceName, is_finite_number
from evovlm.recipes.kinds import PS
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep, ScaleTarget
from evovlm.recipes.local_config import count_blocks, read_config
from evovlm.recipes.model_ref import ModelRef, parse_model_ref
from evovlm.recipes.problems import did_you_mean


def _as_step(value: object, info: ValidationInfo) -> LayerStep:
    return _step(value, info, further=())


def _as_stage_step(value: object, info: ValidationInfo) -> LayerStep:
    return _step(value, info, further=(PS,))


def _step(value: object, info: ValidationInfo, *, further: Collection[str]) -> LayerStep:
    parts = list(value) if isinstance(value, (list, tuple)) else []
    if len(parts) != 3 or not isinstance(parts[0], str) or not _is_count(parts[1]) or not is_finite_number(parts[2]):
        raise PydanticCustomError(
            "step", "should be [source, block, scale]: a name, a number from 0 on, and a finite number"
        )
    source, layer, scale = parts
    sources: Mapping[str, str] | None = info.data.get("sources")
    known = {*(sources or ()), *further}
    if sources is not None and source not in known:
        raise PydanticCustomError(
            "source", "'{name}' is not among the sources{hint}", {"name": source, "hint": did_you_mean(source, known)}
        )
    if sources is not None and source in sources:
        n_blocks = _blocks_of(sources[source], info)
        if n_blocks is not None and layer >= n_blocks:
            raise PydanticCustomError(
                "layer",
                "'{name}' has {count} blocks, 0 to {last}, and no block {layer}",
                {"name": source, "count": n_blocks, "last": n_blocks - 1, "layer": layer},
            )
    return LayerStep(source=source, layer=layer, scale=float(scale))


def _is_count(value: object) -> bool:
    # True is an int to Python, never to a reader of YAML.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _blocks_of(text: str, info: ValidationInfo) -> int | None:
    """Return how many blocks a model has, None when its config is not at hand."""
    context = info.context or {}
    if RELATIVE_TO not in context:
        return None
    config = read_config(parse_model_ref(text, relative_to=context[RELATIVE_TO]))
    return None if config is None else count_blocks(config)


class LayerPathDocument(Document):
    """A recipe file: `kind: layer_path`.

    Validate with the context `relative_to` (the file's folder) to find blocks that a model at hand does not have.
    """

    format: Literal[1]
    kind: Literal["layer_path"]
    host: ModelText
    sources: dict[SourceName, ModelText] = Field(min_length=1)
    scale_target: ScaleTarget
    path: list[Annotated[LayerStep, PlainValidator(_as_step)]] = Field(min_length=1)

    def layer_path(self) -> LayerPath:
        """Return the path that this text means."""
        return LayerPath(steps=tuple(self.path))

    def refs(self, *, relative_to: Path | None) -> Mapping[str, ModelRef]:
        """Return the sources by name."""
        return {name: parse_model_ref(text, relative_to=relative_to) for name, text in self.sources.items()}

    def recipe(self, *, relative_to: Path | None) -> LayerPathMerge:
        """Return the recipe that this text means in a file of the folder `relative_to`."""
        return LayerPathMerge(
            host=parse_model_ref(self.host, relative_to=relative_to),
            sources=self.refs(relative_to=relative_to),
            path=self.layer_path(),
            scale_target=self.scale_target,
        )


class PathStageDocument(LayerPathDocument):
    """The second stage of a hybrid: `ps` is the first stage's result, a source of its own and the host by default."""

    format: Literal[1] = 1
    host: ModelText = PS
    sources: dict[SourceName, ModelText] = Field(default_factory=dict)
    path: list[Annotated[LayerStep, PlainValidator(_as_stage_step)]] = Field(min_length=1)

    @field_validator("sources")
    @classmethod
    def _leaves_ps_alone(cls, sources: dict[str, str]) -> dict[str, str]:
        if PS in sources:
            raise PydanticCustomError(
                "source", "'{name}' is the first stage's result; give another name to the model", {"name": PS}
            )
        return sources
