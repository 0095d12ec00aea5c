"""Turns pydantic's findings about a file into one error that lists each with its line and key."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evovlm.errors import ConfigError
from evovlm.recipes.yaml_text import KeyPath, key_lines

_Model = TypeVar("_Model", bound=BaseModel)
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_SHOWN = 200
_NO_MAPPING = ("model_type", "dataclass_type", "dict_type")


def did_you_mean(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """Return "; did you mean 'x'?" for the closest of the `known` names, else "; known: a, b, c.".

    Names that are not `listed`, as a command lists them, are only suggested.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}." if names and listed else "."


def report_problems(path: Path, error: ValidationError, *, model: type[BaseModel] | None = None) -> ConfigError:
    """Return one ConfigError with every problem pydantic found in the file `path`: line, key path, what is wrong.

    `model` is the pydantic model the file was read as; with it, an unknown key comes with the closest known one.
    """
    return report_places(path, problems_in(error, model=model))


def problems_in(
    error: ValidationError,
    *,
    model: type[BaseModel] | None = None,
    moved: Callable[[KeyPath], KeyPath] = lambda place: place,
) -> list[tuple[KeyPath, str]]:
    """Return every problem pydantic found, with its key path; `moved` says where in the file a key path lies."""
    return [
        (moved(found["loc"]), _describe({**found, "loc": moved(found["loc"])}, model))
        for found in error.errors(include_url=False)
    ]


def validated(model: type[_Model], given: object, *, where: str) -> _Model:
    """Return what `given`, plain values from a command line or a caller, means. Raises ConfigError with `where`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = [f"{where}: {text}" for _, text in problems_in(error, model=model)]
        raise ConfigError("\n    ".join(found)) from error


def report_places(path: Path, found: Iterable[tuple[KeyPath, str]]) -> ConfigError:
    """Return one ConfigError with every problem found in the file `path`: its key path (for the line) and its text."""
    lines = key_lines(path)
    problems = sorted({(_line(place, lines), text) for place, text in found})
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError("\n    ".join([f"{path} has {count}:", *(f"{path}:{line}: {text}" for line, text in problems)]))


def line_of(path: Path, place: KeyPath) -> int:
    """Return the line of a key path in a YAML file, or of the nearest key above it."""
    return _line(place, key_lines(path))


def _line(place: KeyPath, lines: Mapping[KeyPath, int]) -> int:
    while place not in lines:
        place = place[:-1]
    return lines[place]


def _describe(found: ErrorDetails, model: type[BaseModel] | None) -> str:
    place = found["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if part != "[key]").lstrip(".")
    if found["type"] in _UNKNOWN_KEY:
        hint = did_you_mean(str(place[-1]), _keys_at(model, place[:-1])) if model else ""
        return f"{key}: unknown key{hint}"
    if found["type"] in _NO_MAPPING:
        return f"{key or 'the file'}: should hold keys and their values, as in `key: value`"
    if found["type"] == "missing":
        return f"{key}: missing"
    message = found["msg"]
    given = found["input"]
    shown = "" if isinstance(given, (Mapping, list, tuple)) else f" (found {given!r:.{_SHOWN}})"
    return f"{key or 'the file'}: {message[:1].lower()}{message[1:]}{shown}"


def _keys_at(model: type[BaseModel], place: Sequence[str | int]) -> Collection[str]:
    """Return the keys that `model` has at `place`, following nested models, mappings and lists."""
    models: list[type] = [model]
    for part in place:
        models = [inner for outer in models for inner in _models_under(outer, part)]
    return {key for each in models for key in _fields_of(each)}


def _models_under(model: type, part: str | int) -> list[type]:
    fields = _fields_of(model)
    # Else the key of a mapping or the index of a list: already unwrapped with the field above it.
    return _models_in(fields[str(part)]) if part in fields else [model]


def _fields_of(model: type) -> Mapping[str, object]:
    """Return the annotation of each key of a pydantic model, or of a dataclass that text is checked against."""
    if issubclass(model, BaseModel):
        return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    fields = dataclasses.fields(model) if dataclasses.is_dataclass(model) else ()
    return {field.name.rstrip("_"): field.type for field in fields}


def _models_in(annotation: object) -> list[type]:
    inner = typing.get_args(annotation)
    if inner:
        return [found for each in inner for found in _models_in(each)]
    is_one = isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )
    return [annotation] if is_one and isinstance(annotation, type) else []
