"""Recipes read from YAML text, with every problem of a file reported at once (writing.py writes them).

format: 1
kind: parameter_merge
base: zoo:base
sources: {math: zoo:math-a, ja: zoo:ja}
method: dare_ties
seed: 42
parameters:
  math: {weight: 0.7, density: 0.9}
  ja: {weight: 0.5, density: 1.0}

format: 1
kind: layer_path
host: zoo:base
sources: {math: zoo:math-a, ja: zoo:ja}
scale_target: stream
path:
  - [ja, 0, 1.0]
  - [math, 1, 0.93]
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError, ModelNotFound
from evovlm.files import name_problem
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.kinds import PS, HybridMerge, Recipe
from evovlm.recipes.language_config import has_vision
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep, ScaleTarget
from evovlm.recipes.mergekit.reading import is_mergekit, recipe_from_mergekit, refuse_other_tools
from evovlm.recipes.model_ref import ModelRef, count_blocks, local_config, parse_model_ref, read_config
from evovlm.recipes.problems import did_you_mean, report_places, report_problems
from evovlm.recipes.recipe import Dtype, MergeSettings, MergeTemplate, ParameterMerge, Vocabulary
from evovlm.recipes.source_values import SOURCE_PARAMETERS, SourceParameters, is_finite_number, parts_of
from evovlm.recipes.yaml_text import read_yaml

_METHODS = "methods"
FOLDER = "folder"
"""The validation context's key for the file's folder: with it, every model must be a folder or a hub id."""
RELATIVE_TO = "relative_to"
"""The validation context's key for the file's folder: with it, the configs of models are read, but may be missing."""


def _may_be_had(text: str, info: ValidationInfo) -> str:
    folder: Path | None = (info.context or {}).get(FOLDER)
    if folder is not None:
        try:
            parse_model_ref(text, relative_to=folder).check_parts()
        except ModelNotFound as error:
            raise PydanticCustomError(
                "model", "no such model. {reason}", {"reason": " ".join(str(error).split())}
            ) from error
    return text


def _may_be_a_path(text: str) -> str:
    problem = name_problem(text)
    if problem is not None:
        raise PydanticCustomError("path", "{problem}", {"problem": problem})
    return text


PathText = Annotated[str, Field(min_length=1), AfterValidator(_may_be_a_path)]
ModelText = Annotated[PathText, AfterValidator(_may_be_had)]
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Document(BaseModel):
    """Text from a file: unknown keys, numbers in quotes and infinities are problems.

    `later` names the keys that were added to a format later. They are written only where they are given, so that what
    was written before, with every default, keeps its text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @field_validator("format", mode="before", check_fields=False)
    @classmethod
    def _is_whole(cls, given: object) -> object:
        # Python compares true and 1.0 as equal to 1.
        if isinstance(given, (bool, float)):
            raise PydanticCustomError("format", "input should be 1")
        return given

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        found: dict[str, object] = plain(self)
        fields = type(self).model_fields
        unset = {key for key in self.later if getattr(self, key) == fields[key].default}
        return {key: value for key, value in found.items() if key not in unset}


class MergeDocument(Document):
    """The keys of a merge that a search keeps fixed.

    Validate with the context `methods` (names) to check `method`, and with `folder` (that of the file) to check that
    every model is an existing folder or may be on the hub.
    """

    later: ClassVar[frozenset[str]] = frozenset({"chat_template", "generation", "dtype", "backbone"})

    base: ModelText | None = None
    host: ModelText | None = None
    sources: dict[SourceName, ModelText] = Field(min_length=1)
    method: str
    settings: MergeSettings = MergeSettings()
    seed: int = 0
    vocabulary: Vocabulary | None = None
    config_from: str | None = None
    chat_template: str | None = None
    generation: str | None = None
    dtype: Dtype | None = None
    backbone: BackbonePrefixes | None = None

    @field_validator("method")
    @classmethod
    def _method_exists(cls, method: str, info: ValidationInfo) -> str:
        known: Collection[str] = (info.context or {}).get(_METHODS, ())
        if known and method not in known:
            raise PydanticCustomError("method", "unknown method{hint}", {"hint": did_you_mean(method, known)})
        return method

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of the sources."""
        return tuple(self.sources)

    def template(self, *, relative_to: Path | None) -> MergeTemplate:
        """Return the template that this text means in a file of the folder `relative_to`.

        Raises ConfigError when no host is given and the other keys do not determine one.
        """
        sources = {name: parse_model_ref(text, relative_to=relative_to) for name, text in self.sources.items()}
        base = parse_model_ref(self.base, relative_to=relative_to) if self.base else None
        host = parse_model_ref(self.host, relative_to=relative_to) if self.host else default_host(base, sources)
        return MergeTemplate(
            base=base,
            host=host,
            sources=sources,
            method=self.method,
            settings=self.settings,
            seed=self.seed,
            vocabulary=self.vocabulary,
            config_from=self.config_from,
            chat_template=self.chat_template,
            generation=self.generation,
            dtype=self.dtype,
            backbone=self.backbone,
        )


class RecipeDocument(MergeDocument):
    """A recipe file: `kind: parameter_merge`."""

    format: Literal[1]
    kind: Literal["parameter_merge"]
    parameters: dict[str, SourceParameters]

    @field_validator("parameters")
    @classmethod
    def _names_and_lengths_agree(
        cls, parameters: dict[str, SourceParameters], info: ValidationInfo
    ) -> dict[str, SourceParameters]:
        sources: Mapping[str, str] | None = info.data.get("sources")
        for name in parameters if sources is not None else ():
            if name not in (sources or ()):
                raise PydanticCustomError(
                    "source",
                    "'{name}' is not among the sources{hint}",
                    {"name": name, "hint": did_you_mean(name, sources or ())},
                )
        missing = sorted(set(sources or ()) - set(parameters))
        if missing:
            raise PydanticCustomError("source", "missing for {names}", {"names": ", ".join(missing)})
        every = (getattr(each, name) for each in parameters.values() for name in SOURCE_PARAMETERS)
        lengths = sorted({len(part) for values in every for part in parts_of(values) if isinstance(part, tuple)})
        if len(lengths) > 1:
            raise PydanticCustomError(
                "lengths", "lists of {lengths} numbers, but every list has one per unit", {"lengths": str(lengths)}
            )
        return parameters

    def recipe(self, *, relative_to: Path | None) -> ParameterMerge:
        """Return the recipe that this text means in a file of the folder `relative_to`."""
        return self.template(relative_to=relative_to).recipe(self.parameters)


def default_host(base: ModelRef | None, sources: Mapping[str, ModelRef]) -> ModelRef:
    """Return the host of a recipe that names none: its only vision-language source, else its base.

    Reads only folders that exist already. Raises ConfigError when this leaves no choice or several.
    """
    seeing = [ref for ref in sources.values() if has_vision(local_config(ref) or {})]
    if len(seeing) == 1:
        return seeing[0]
    if base is not None and not seeing:
        return base
    reason = "several sources are vision-language models" if seeing else "there is no base to take it from"
    raise ConfigError(
        f"host: missing, and {reason}.\n    Name the model whose config, tokenizer and unmerged tensors to take."
    )


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
    """Return the number of blocks of a model, None when its config is not on this machine."""
    context = info.context or {}
    if RELATIVE_TO not in context:
        return None
    config = read_config(parse_model_ref(text, relative_to=context[RELATIVE_TO]))
    return None if config is None else count_blocks(config)


class LayerPathDocument(Document):
    """A recipe file: `kind: layer_path`.

    Validate with the context `relative_to` (the file's folder) to find blocks that a model on this machine does not
    have.
    """

    format: Literal[1]
    kind: Literal["layer_path"]
    host: ModelText
    sources: dict[SourceName, ModelText] = Field(min_length=1)
    scale_target: ScaleTarget
    dtype: Dtype | None = None
    chat_template: str | None = None
    generation: str | None = None
    backbone: BackbonePrefixes | None = None
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
            dtype=self.dtype,
            chat_template=self.chat_template,
            generation=self.generation,
            backbone=self.backbone,
        )


def without_ps(sources: dict[str, str]) -> dict[str, str]:
    """Return the sources of a path that follows a merge. Raises PydanticCustomError if a model takes its name."""
    if PS in sources:
        raise PydanticCustomError(
            "source", "'{name}' is the first stage's result; give another name to the model", {"name": PS}
        )
    return sources


def _belongs_to_ps(value: object) -> None:
    if value is not None:
        raise PydanticCustomError("stage", "the first stage (`{ps}`) says it for both; write it there", {"ps": PS})


_OfFirstStage = Annotated[None, PlainValidator(_belongs_to_ps)]


class PathStageDocument(LayerPathDocument):
    """The second stage of a hybrid: `ps` is the first stage's result, which is a source, and the host by default.

    The first stage says the dtype, chat and backbone of both.
    """

    format: Literal[1] = 1
    host: ModelText = PS
    dtype: _OfFirstStage = None
    chat_template: _OfFirstStage = None
    generation: _OfFirstStage = None
    backbone: _OfFirstStage = None
    sources: Annotated[dict[SourceName, ModelText], AfterValidator(without_ps)] = Field(default_factory=dict)
    path: list[Annotated[LayerStep, PlainValidator(_as_stage_step)]] = Field(min_length=1)


class StageDocument(RecipeDocument):
    """The first stage of a hybrid: a recipe file without its first line."""

    format: Literal[1] = 1


class StagesDocument(Document):
    """`stages:` of a hybrid."""

    ps: StageDocument
    path: PathStageDocument


class HybridDocument(Document):
    """A recipe file: `kind: hybrid`."""

    format: Literal[1]
    kind: Literal["hybrid"]
    stages: StagesDocument

    def recipe(self, *, relative_to: Path | None) -> HybridMerge:
        """Return the recipe that this text means in a file of the folder `relative_to`."""
        path = self.stages.path
        return HybridMerge(
            ps=self.stages.ps.recipe(relative_to=relative_to),
            host=None if path.host == PS else parse_model_ref(path.host, relative_to=relative_to),
            sources=path.refs(relative_to=relative_to),
            path=path.layer_path(),
            scale_target=path.scale_target,
        )


_DOCUMENTS: Mapping[object, type[RecipeDocument] | type[LayerPathDocument] | type[HybridDocument]] = {
    "parameter_merge": RecipeDocument,
    "layer_path": LayerPathDocument,
    "hybrid": HybridDocument,
}


def load_recipe(path: Path, *, methods: Collection[str] = (), on_note: Callable[[str], None] | None = None) -> Recipe:
    """Return the recipe in the YAML file `path`; its relative model paths start at the file's folder.

    A mergekit file is read as the recipe that it means. `methods` are the names that `method` may have (empty: any);
    `on_note` gets what of a mergekit file changes nothing. Raises ConfigError with all problems of the file.
    """
    return recipe_from_text(read_yaml(path), path, methods=methods, on_note=on_note)


def recipe_from_text(
    text: object, path: Path, *, methods: Collection[str] = (), on_note: Callable[[str], None] | None = None
) -> Recipe:
    """Return the recipe of `text`, which was read from the YAML file `path`; see `load_recipe`."""
    if is_mergekit(text):
        return recipe_from_mergekit(text, path, methods=methods, on_note=on_note)
    refuse_other_tools(text, path)
    kind = text.get("kind") if isinstance(text, Mapping) else None
    if isinstance(kind, str) and kind not in _DOCUMENTS:
        search = " This is the config of a search: `evovlm evolve` runs it." if kind == "evolve" else ""
        known = did_you_mean(kind, map(str, _DOCUMENTS))
        raise report_places(path, [(("kind",), f"kind: unknown kind '{kind}'{known}{search}")])
    try:
        return recipe_from_values(text, relative_to=path.parent, methods=methods)
    except ValidationError as error:
        raise report_problems(path, error, model=_document_of(text)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_from_values(values: object, *, relative_to: Path | None, methods: Collection[str] = ()) -> Recipe:
    """Return the recipe of plain values that were read from a file of the folder `relative_to`.

    Raises pydantic's ValidationError for values of another form, ConfigError for values that do not make a recipe.
    """
    document = _document_of(values).model_validate(values, context={_METHODS: methods, RELATIVE_TO: relative_to})
    return document.recipe(relative_to=relative_to)


def _document_of(values: object) -> type[RecipeDocument] | type[LayerPathDocument] | type[HybridDocument]:
    kind = values.get("kind") if isinstance(values, Mapping) else None
    return _DOCUMENTS.get(kind if isinstance(kind, str) else None, RecipeDocument)
