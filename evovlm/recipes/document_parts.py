"""What the documents of all recipes and configs are made of: strict keys, names, models, numbers."""

import math
from pathlib import Path
from typing import Annotated, TypeGuard

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from evovlm.errors import ModelNotFound
from evovlm.recipes.model_ref import parse_model_ref

FOLDER = "folder"
"""The validation context's key for the file's folder: with it, every model must be a folder or a hub id."""
RELATIVE_TO = "relative_to"
"""The validation context's key for the file's folder where models are looked into, but may be missing."""


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Whether this is a number that a file may give; True is none."""
    # True is an int to Python, never to a reader of YAML.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _may_be_had(text: str, info: ValidationInfo) -> str:
    folder: Path | None = (info.context or {}).get(FOLDER)
    if folder is not None:
        try:
            parse_model_ref(text, relative_to=folder).find()
        except ModelNotFound as error:
            raise PydanticCustomError(
                "model", "no such model. {reason}", {"reason": " ".join(str(error).split())}
            ) from error
    return text


ModelText = Annotated[str, Field(min_length=1), AfterValidator(_may_be_had)]
SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Document(BaseModel):
    """Text from a file: unknown keys, numbers in quotes and infinities are problems."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
