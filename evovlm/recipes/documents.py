"""Recipes as YAML text: read with every problem of a file reported at once, and written back the same.

format: 1
kind: parameter_merge
base: zoo:base
sources: {math: zoo:math-a, ja: zoo:ja}
method: dare_ties
seed: 42
parameters:
  math: {weight: 0.7, density: 0.9}
  ja: {weight: 0.5, density: 1.0}
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import ConfigError
from evovlm.recipes.document_parts import RELATIVE_TO, Document, ModelText, SourceName, is_finite_number
from evovlm.recipes.families import has_vision
from evovlm.recipes.kinds import PS, HybridMerge, Recipe
from evovlm.recipes.mergekit.reading import is_mergekit, recipe_from_mergekit
from evovlm.recipes.model_ref import ModelRef, parse_model_ref
from evovlm.recipes.path_documents import LayerPathDocument, PathStageDocument
from evovlm.recipes.problems import did_you_mean, report_places, report_problems
from evovlm.recipes.recipe import (
    COMPONENTS,
    SOURCE_PARAMETERS,
    ByComponent,
    MergeSettings,
    MergeTemplate,
    ParameterMerge,
    Rescale,
    SourceParameters,
    UnitValues,
    Values,
    Vocabulary,
    numbers_of,
    parts_of,
)
from evovlm.recipes.recipe_text import recipe_to_yaml
from evovlm.recipes.yaml_text import read_yaml

__all__ = [
    "MergeDocument",
    "ParametersDocument",
    "RecipeDocument",
    "SettingsDocument",
    "load_recipe",
    "read_yaml",
    "recipe_to_yaml",
    "report_problems",
]

_METHODS = "methods"


def _as_unit_values(value: object) -> UnitValues:
    numbers: list[object] = list(value) if isinstance(value, (list, tuple)) else [value]
    plain = tuple(float(number) for number in numbers if is_finite_number(number))
    if not plain or len(plain) < len(numbers):
        raise PydanticCustomError(
            "unit_values", "should be a number, or a list with one number per unit (embedding, each block, head)"
        )
    return plain if isinstance(value, (list, tuple)) else plain[0]


def _as_values(value: object, info: ValidationInfo) -> Values:
    if isinstance(value, Mapping):
        if set(value) != set(COMPONENTS):
            raise PydanticCustomError(
                "by_component", "by component needs exactly the keys {keys}", {"keys": ", ".join(COMPONENTS)}
            )
        values: Values = ByComponent(**{name: _as_unit_values(value[name]) for name in COMPONENTS})
    else:
        values = value if isinstance(value, ByComponent) else _as_unit_values(value)
    parameter = SOURCE_PARAMETERS[str(info.field_name)]
    if not all(parameter.low <= number <= parameter.high for number in numbers_of(values)):
        raise PydanticCustomError(
            "range",
            "should be in [{low}, {high}], as {meaning}",
            {"low": f"{parameter.low:g}", "high": f"{parameter.high:g}", "meaning": parameter.meaning},
        )
    return values


def _as_they_are(values: Values) -> object:
    return values


# Without a serializer of its own, pydantic holds what it has made of a list against the type of the value.
_Numbers = Annotated[Values, PlainValidator(_as_values), PlainSerializer(_as_they_are)]


class SettingsDocument(Document):
    """`settings:` of a recipe."""

    rescale: Rescale = "density"
    normalize: bool | None = None
    lambda_: float = Field(default=1.0, alias="lambda")
    row_wise: bool = False
    select_topk: float = Field(default=1.0, ge=0, le=1)
    max_iterations: int = Field(default=10, ge=1)
    tolerance: float = Field(default=1e-5, ge=0)

    def settings(self) -> MergeSettings:
        """Return the value that this text means."""
        return MergeSettings(**{name: getattr(self, name) for name in type(self).model_fields})


class ParametersDocument(Document):
    """One source's numbers: each is a number, a list with one per unit, or either by component."""

    weight: _Numbers = 1.0
    density: _Numbers = 1.0
    gamma: _Numbers = 0.01
    epsilon: _Numbers = 0.15

    def parameters(self) -> SourceParameters:
        """Return the value that this text means."""
        return SourceParameters(**{name: getattr(self, name) for name in SOURCE_PARAMETERS})


class MergeDocument(Document):
    """The keys of a merge that a search keeps fixed.

    Validate with the context `methods` (names) to check `method`, and with `folder` (that of the file) to check that
    every model is an existing folder or may be on the hub.
    """

    base: ModelText | None = None
    host: ModelText | None = None
    sources: dict[SourceName, ModelText] = Field(min_length=1)
    method: str
    settings: SettingsDocument = SettingsDocument()
    seed: int = 0
    vocabulary: Vocabulary | None = None
    config_from: str | None = None

    @field_validator("method")
    @classmethod
    def _method_exists(cls, method: str, info: ValidationInfo) -> str:
        known: Collection[str] = (info.context or {}).get(_METHODS, ())
        if known and method not in known:
            raise PydanticCustomError("method", "unknown method{hint}", {"hint": did_you_mean(method, known)})
        return method

    def template(self, *, relative_to: Path | None) -> MergeTemplate:
        """Return the template that this text means in a file of the folder `relative_to`.

        Raises ConfigError when no host is given and none can be told from the rest.
        """
        sources = {name: parse_model_ref(text, relative_to=relative_to) for name, text in self.sources.items()}
        base = parse_model_ref(self.base, relative_to=relative_to) if self.base else None
        host = parse_model_ref(self.host, relative_to=relative_to) if self.host else default_host(base, sources)
        return MergeTemplate(
            base=base,
            host=host,
            sources=sources,
            method=self.method,
            settings=self.settings.settings(),
            seed=self.seed,
            vocabulary=self.vocabulary,
            config_from=self.config_from,
        )


class RecipeDocument(MergeDocument):
    """A recipe file: `kind: parameter_merge`."""

    format: Literal[1]
    kind: Literal["parameter_merge"]
    parameters: dict[str, ParametersDocument]

    @field_validator("parameters")
    @classmethod
    def _names_and_lengths_agree(
        cls, parameters: dict[str, ParametersDocument], info: ValidationInfo
    ) -> dict[str, ParametersDocument]:
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
        parameters = {name: each.parameters() for name, each in self.parameters.items()}
        return self.template(relative_to=relative_to).recipe(parameters)


def default_host(base: ModelRef | None, sources: Mapping[str, ModelRef]) -> ModelRef:
    """Return the host of a recipe that names none: its only vision-language source, else its base.

    Only folders that are there already are looked into. Raises ConfigError when this leaves no choice or several.
    """
    seeing = [ref for ref in sources.values() if _has_vision(ref)]
    if len(seeing) == 1:
        return seeing[0]
    if base is not None and not seeing:
        return base
    reason = "several sources are vision-language models" if seeing else "there is no base to take it from"
    raise ConfigError(
        f"host: missing, and {reason}.\n    Name the model whose config, tokenizer and unmerged tensors to take."
    )


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


def load_recipe(path: Path, *, methods: Collection[str] = ()) -> Recipe:
    """Return the recipe in the YAML file `path`; its relative model paths start at the file's folder.

    A mergekit file is read as the recipe that it means. `methods` are the names that `method` may have (empty: any).
    Raises ConfigError with all problems of the file.
    """
    text = read_yaml(path)
    if is_mergekit(text):
        return recipe_from_mergekit(path, methods=methods)
    kind = text.get("kind") if isinstance(text, Mapping) else None
    if isinstance(kind, str) and kind not in _DOCUMENTS:
        raise report_places(
            path, [(("kind",), f"kind: unknown kind '{kind}'{did_you_mean(kind, map(str, _DOCUMENTS))}")]
        )
    try:
        return recipe_from_values(text, relative_to=path.parent, methods=methods)
    except ValidationError as error:
        raise report_problems(path, error, model=_document_of(text)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_from_values(values: object, *, relative_to: Path | None, methods: Collection[str] = ()) -> Recipe:
    """Return the recipe that plain values, as they stand in a file of the folder `relative_to`, mean.

    Raises pydantic's ValidationError for values of another form, ConfigError for what makes no recipe.
    """
    document = _document_of(values).model_validate(values, context={_METHODS: methods, RELATIVE_TO: relative_to})
    return document.recipe(relative_to=relative_to)


def _document_of(values: object) -> type[RecipeDocument] | type[LayerPathDocument] | type[HybridDocument]:
    kind = values.get("kind") if isinstance(values, Mapping) else None
    return _DOCUMENTS.get(kind if isinstance(kind, str) else None, RecipeDocument)


def _has_vision(ref: ModelRef) -> bool:
    folder = ref.local_folder()
    if folder is None or not (folder / "config.json").is_file():
        return False
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        # Whoever opens the checkpoint says what is wrong with it.
        return False
    return isinstance(config, dict) and has_vision(config)
