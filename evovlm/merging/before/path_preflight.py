"""A recipe of any kind looked at before its weights are fetched; here what is peculiar to paths through layers."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from evovlm.merging.before.findings import ModelReport, Preflight, ResultSize
from evovlm.merging.before.needs import Needs, Resident, find_needs, memory_warnings, room_problems
from evovlm.merging.before.preflight import (
    Gathered,
    check_dtypes,
    check_out,
    open_all,
    preflight,
    report_of,
    summed_up,
)
from evovlm.merging.checkpoint.licences import Licence, most_restrictive
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.paths.plan import PathPlan, path_problems
from evovlm.recipes.kinds import HybridMerge, Recipe
from evovlm.recipes.layer_path import LayerPathMerge


def preflight_recipe(
    recipe: Recipe, *, out: Path | None = None, may_exist: bool = False, resident: Resident | None = None
) -> Preflight:
    """Look at a recipe without fetching weights; `out` and `resident` are those of `preflight`.

    With `resident`, the host and all sources of a path stay in memory.
    Raises nothing that the user can mend: it is among the problems.
    """
    match recipe:
        case LayerPathMerge():
            return _preflight_path(recipe, out=out, may_exist=may_exist, resident=resident)
        case HybridMerge():
            return _preflight_hybrid(recipe, out=out, may_exist=may_exist, resident=resident)
        case _:
            return preflight(recipe, out=out, may_exist=may_exist, resident=resident)


def _preflight_path(
    recipe: LayerPathMerge,
    *,
    out: Path | None,
    may_exist: bool,
    resident: Resident | None,
    meanwhile_bytes: int = 0,
    merged: Collection[str] = (),
) -> Preflight:
    """Look at a path; `merged` are the models that stand for a first stage's result."""
    found = Gathered()
    refs = recipe.models()
    models = open_all(refs, found)
    result = _compared(recipe, models, found)
    reports = tuple(report_of(model, refs[name], found) for name, model in models.items())
    check_out(out, found, may_exist=may_exist)
    needs = None
    if result is not None:
        needs = _find_needs(models, reports, out=out, resident=resident, merged=merged)
        needs = replace(needs, result_bytes=result.size_bytes, meanwhile_bytes=meanwhile_bytes)
        found.problems += room_problems(needs, out=out)
        found.warnings += memory_warnings(needs, resident)
    return summed_up(found, models, reports, needs=needs, result=result)


def _compared(recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint], found: Gathered) -> ResultSize | None:
    """Note what does not fit; return the size of the result where all models are there and fit."""
    problems = list(path_problems(recipe, models))
    found.problems += problems
    for model in models.values():
        found.attempt(partial(check_dtypes, model.checkpoint))
    if problems or len(models) < len(recipe.models()):
        return None
    plan = found.attempt(lambda: PathPlan.of(recipe, models))
    if plan is None:
        return None
    found.warnings += plan.warnings
    return ResultSize(n_blocks=len(recipe.path), n_parameters=plan.n_parameters, size_bytes=plan.size_bytes)


def _find_needs(
    models: Mapping[str, NamedCheckpoint],
    reports: tuple[ModelReport, ...],
    *,
    out: Path | None,
    resident: Resident | None,
    merged: Collection[str],
) -> Needs:
    # A model may have several parts, and is fetched once.
    downloads = {report.text: report.download_bytes for report in reports}
    # Every model is loaded once; what a first stage makes is another than the model it is made in.
    loaded = {(model.checkpoint.folder, name in merged): model.checkpoint for name, model in models.items()}
    host = models["host"].checkpoint
    del loaded[host.folder, "host" in merged]
    return find_needs(
        host,
        n_models=1,
        download_bytes=sum(downloads.values()),
        out=out,
        resident=resident,
        beside=tuple(loaded.values()),
    )


def _preflight_hybrid(
    recipe: HybridMerge, *, out: Path | None, may_exist: bool, resident: Resident | None
) -> Preflight:
    """Look at both stages; the first one's host stands for its result, whose blocks are of the same shapes."""
    first = preflight(recipe.ps)
    size_bytes = first.result.size_bytes if first.result else 0
    second = _preflight_path(
        recipe.path_merge(recipe.ps.host),
        out=out,
        may_exist=may_exist,
        resident=resident,
        meanwhile_bytes=size_bytes,
        merged=("sources.ps", *(["host"] if recipe.host is None else [])),
    )
    further = tuple(model for model in second.models if model.name not in ("host", "sources.ps") or recipe.host)
    fetched = {model.text: model.download_bytes for model in (*first.models, *further)}
    needs = second.needs and replace(second.needs, download_bytes=sum(fetched.values()))
    models = (*(replace(model, name=f"ps.{model.name}") for model in first.models), *further)
    return replace(
        second,
        models=models,
        problems=tuple({str(each): each for each in (*first.problems, *second.problems)}.values()),
        warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
        needs=needs,
        licence=most_restrictive({model.text: Licence(id=model.licence) for model in models}),
    )
