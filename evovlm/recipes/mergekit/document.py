"""The outer form of a mergekit file: which keys are where. Its parameters are read later, tensor by tensor."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator
from pydantic_core import PydanticCustomError

from evovlm.recipes.choices import AUTO, is_template_text
from evovlm.recipes.layer_path import ScaleTarget
from evovlm.recipes.mergekit.chat_templates import MERGEKIT_TEMPLATES, SHORTEST_TEMPLATE
from evovlm.recipes.model_config import MOST_BLOCKS
from evovlm.recipes.recipe import Dtype


def _as_model_text(value: object) -> str:
    """Return "path-or-id" or "id@revision", with "+adapter" after it, for what mergekit takes as a model."""
    return value if isinstance(value, str) else _from_mapping(value)


def _from_mapping(value: object) -> str:
    if not isinstance(value, Mapping) or "model" not in value:
        raise PydanticCustomError("model", "should be a model: a folder or a hub id")
    if value.get("override_architecture") is not None:
        raise PydanticCustomError("model", "{key} has no equivalent here", {"key": "override_architecture"})
    model = _from_path(value["model"])
    return model if value.get("lora") is None else f"{model}+{_from_path(value['lora'])}"


def _from_path(inner: object) -> str:
    path = inner.get("path") if isinstance(inner, Mapping) else inner
    revision = inner.get("revision") if isinstance(inner, Mapping) else None
    if not isinstance(path, str) or not path:
        raise PydanticCustomError("model", "should be a model: a folder or a hub id")
    return path if revision is None else f"{path}@{revision}"


ModelText = Annotated[str, PlainValidator(_as_model_text)]
Parameters = dict[str, Any]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelEntry(_Document):
    """An entry of `models:`."""

    model: ModelText
    parameters: Parameters | None = None


class SliceSource(_Document):
    """A source of a slice: its blocks from `layer_range[0]` up to and without `layer_range[1]`."""

    model: ModelText
    layer_range: Annotated[list[Annotated[int, Field(le=MOST_BLOCKS)]], Field(min_length=2, max_length=2)]
    parameters: Parameters | None = None


class Slice(_Document):
    """An entry of `slices:`."""

    sources: Annotated[list[SliceSource], Field(min_length=1)]
    base_model: ModelText | None = None
    parameters: Parameters | None = None


class TokenizerDocument(_Document):
    """`tokenizer:`, the longer form of `tokenizer_source`."""

    source: ModelText = "union"
    tokens: None = None
    pad_to_multiple_of: None = None


class OwnDocument(_Document):
    """`evovlm:`, which mergekit ignores: what a recipe says beyond a mergekit file.

    `scale_target` and `scales` (one per hop) are those of a path, whose weights the file's factors change.
    """

    seed: int = 0
    sources: dict[str, str] = Field(default_factory=dict)
    scale_target: ScaleTarget | None = None
    scales: list[float] | None = None


class MergekitDocument(_Document):
    """A mergekit file."""

    merge_method: str
    base_model: ModelText | None = None
    models: Annotated[list[ModelEntry], Field(min_length=1)] | None = None
    slices: Annotated[list[Slice], Field(min_length=1)] | None = None
    modules: Any = None
    parameters: Parameters | None = None
    dtype: Dtype | Literal["float64"] | None = None
    out_dtype: Dtype | Literal["float64"] | None = None
    tokenizer_source: ModelText | None = None
    tokenizer: TokenizerDocument | None = None
    chat_template: str | None = None
    name: str | None = None
    evovlm: OwnDocument = OwnDocument()

    @field_validator("modules")
    @classmethod
    def _has_no_modules(cls, value: object) -> None:
        if value is not None:
            raise PydanticCustomError("modules", "has no equivalent in a recipe, which merges one language model")

    @field_validator("chat_template")
    @classmethod
    def _as_chosen(cls, value: str | None) -> str | None:
        """Return what it means in a recipe: for the name of one of mergekit's templates, the template's text."""
        if value in (None, "", AUTO):
            return value or None
        if value not in MERGEKIT_TEMPLATES and not (is_template_text(value) and len(value) >= SHORTEST_TEMPLATE):
            raise PydanticCustomError(
                "template",
                "'{value}' is not a template; write auto, the text of a template, or one of {names}",
                {"value": value[:80], "names": ", ".join(MERGEKIT_TEMPLATES)},
            )
        return MERGEKIT_TEMPLATES.get(value, value)

    @field_validator("dtype", "out_dtype", mode="before")
    @classmethod
    def _is_a_dtype(cls, value: object) -> object:
        name = value.removeprefix("torch.") if isinstance(value, str) else value
        if name not in (None, "float64", "float32", "float16", "bfloat16"):
            raise PydanticCustomError("dtype", "should be float32, float16, bfloat16 or float64")
        return name

    @property
    def form(self) -> Literal["models", "slices"] | None:
        """How the sources are given; None for neither or both."""
        if (self.models is None) == (self.slices is None):
            return None
        return "models" if self.models is not None else "slices"
