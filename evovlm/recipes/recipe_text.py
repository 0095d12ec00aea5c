"""Recipes as YAML text that reads back to an equal recipe."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from evovlm.recipes.kinds import PS, HybridMerge, Recipe
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, ScaleTarget
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import COMPONENTS, SOURCE_PARAMETERS, ByComponent, ParameterMerge, Values
from evovlm.recipes.yaml_text import scalar_text


def recipe_to_yaml(recipe: Recipe, *, folder: Path | None = None) -> str:
    """Return the recipe as YAML text that `load_recipe` reads back to an equal recipe.

    With `folder`, the folder the text is going to, local model paths are rewritten to hold from there.
    """
    match recipe:
        case ParameterMerge():
            lines = ["kind: parameter_merge", *_parameter_merge(recipe, folder)]
        case LayerPathMerge():
            host = f"host: {_text(recipe.host, folder)}"
            lines = ["kind: layer_path", host, *_path(recipe.sources, recipe.path, recipe.scale_target, folder)]
        case HybridMerge():
            lines = ["kind: hybrid", "stages:", *_indented(_stages(recipe, folder))]
    return "\n".join(["format: 1", *lines]) + "\n"


def _stages(recipe: HybridMerge, folder: Path | None) -> Iterator[str]:
    yield f"{PS}:"
    yield from _indented(["kind: parameter_merge", *_parameter_merge(recipe.ps, folder)])
    yield "path:"
    host = [] if recipe.host is None else [f"host: {_text(recipe.host, folder)}"]
    yield from _indented(["kind: layer_path", *host, *_path(recipe.sources, recipe.path, recipe.scale_target, folder)])


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _sources(sources: Mapping[str, ModelRef], folder: Path | None) -> list[str]:
    named = [f"  {scalar_text(name)}: {_text(ref, folder)}" for name, ref in sources.items()]
    return ["sources:", *named] if named else ["sources: {}"]


def _path(
    sources: Mapping[str, ModelRef], path: LayerPath, scale_target: ScaleTarget, folder: Path | None
) -> Iterator[str]:
    yield from _sources(sources, folder)
    yield f"scale_target: {scale_target}"
    yield "path:"
    yield from (f"  - [{scalar_text(step.source)}, {step.layer}, {step.scale!r}]" for step in path.steps)


def _parameter_merge(recipe: ParameterMerge, folder: Path | None) -> list[str]:
    first = {name: getattr(recipe.settings, name) for name in ("rescale", "normalize", "lambda_")}
    settings = {name.rstrip("_"): value for name, value in (first | dict(recipe.settings.changed())).items()}
    lines = []
    if recipe.base is not None:
        lines.append(f"base: {_text(recipe.base, folder)}")
    lines.append(f"host: {_text(recipe.host, folder)}")
    lines += _sources(recipe.sources, folder)
    lines.append(f"method: {scalar_text(recipe.method)}")
    lines.append(f"settings: {{{', '.join(f'{key}: {json.dumps(value)}' for key, value in settings.items())}}}")
    lines.append(f"seed: {recipe.seed}")
    if recipe.vocabulary is not None:
        lines.append(f"vocabulary: {recipe.vocabulary}")
    if recipe.config_from is not None:
        lines.append(f"config_from: {scalar_text(recipe.config_from)}")
    lines.append("parameters:")
    for name in recipe.sources:
        numbers = recipe.parameters[name]
        lines.append(f"  {scalar_text(name)}:")
        for parameter, row in SOURCE_PARAMETERS.items():
            values: Values = getattr(numbers, parameter)
            if parameter in ("weight", "density") or values != row.default:
                lines.append(f"    {parameter}: {_values(values)}")
    return lines


def _text(ref: ModelRef, folder: Path | None) -> str:
    local = ref.local_folder()
    if folder is None or local is None or ref.text.startswith("zoo:") or Path(ref.text).is_absolute():
        return scalar_text(ref.text)
    relative = os.path.relpath(local.resolve(), folder.resolve())
    return scalar_text(relative if relative.startswith(".") else f"./{relative}")


def _values(values: Values) -> str:
    if isinstance(values, ByComponent):
        return f"{{{', '.join(f'{name}: {_values(getattr(values, name))}' for name in COMPONENTS)}}}"
    # repr of a float is the shortest text that reads back as the same float64.
    return repr(values) if not isinstance(values, tuple) else f"[{', '.join(map(repr, values))}]"
