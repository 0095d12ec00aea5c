"""Recipes written as YAML text, which documents.py reads back to equal recipes."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.source_values import COMPONENTS, SOURCE_PARAMETERS
from evovlm.recipes.yaml_text import scalar_text


def recipe_to_yaml(recipe: Recipe, *, folder: Path | None = None) -> str:
    """Return the recipe as YAML text that `load_recipe` reads back to an equal recipe.

    With `folder`, the folder the text is going to, local model paths are rewritten to hold from there.
    """
    values = recipe.as_values(lambda ref: _written(ref, folder))
    return "\n".join(_lines(values, inside="")) + "\n"


def _written(ref: ModelRef, folder: Path | None) -> str:
    def written(part: ModelRef, local: Path | None) -> str:
        if folder is None or local is None or Path(part.text).is_absolute():
            return part.text
        relative = os.path.relpath(local.resolve(), folder.resolve())
        return relative if relative.startswith(".") else f"./{relative}"

    return ref.rewritten(written)


def _lines(values: Mapping[str, Any], *, inside: str) -> Iterator[str]:
    """Yield the lines of a mapping that is the value of the key `inside`."""
    for key, value in values.items():
        name = scalar_text(key)
        if isinstance(value, dict) and value and not _is_short(key, value, inside=inside):
            yield f"{name}:"
            yield from (f"  {line}" for line in _lines(value, inside=key))
        elif isinstance(value, list) and key == "path":
            yield f"{name}:"
            yield from (f"  - {_flow(step)}" for step in value)
        else:
            yield f"{name}: {scalar_text(value) if isinstance(value, str) else _flow(value)}"


def _is_short(key: str, value: Mapping[str, Any], *, inside: str) -> bool:
    """Return whether a mapping is written in one line: the settings, and the numbers of components."""
    # A source may be called `settings`; its numbers are among the parameters.
    return (key == "settings" and inside != "parameters") or (key in SOURCE_PARAMETERS and {*COMPONENTS} <= set(value))


def _flow(value: Any) -> str:
    """Return a value in one line; a float is the shortest text that reads back as the same float64."""
    if isinstance(value, dict):
        each = (f"{key}: {json.dumps(one) if isinstance(one, str) else _flow(one)}" for key, one in value.items())
        return f"{{{', '.join(each)}}}"
    if isinstance(value, list):
        return f"[{', '.join(scalar_text(one) if isinstance(one, str) else _flow(one) for one in value)}]"
    return json.dumps(value)
