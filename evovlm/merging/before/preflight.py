"""Everything that can be known about a merge before its weights are fetched: what does not fit, and what it needs.

Configs, tokenizers, cards and headers are read, no weights; all problems are found, not only the first.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from evovlm.errors import ConfigError, EvovlmError, OutputExists
from evovlm.merging.arithmetic.methods import Method, check_parameters, check_tensor_names, get_method
from evovlm.merging.before.findings import ModelReport, Preflight, ResultSize
from evovlm.merging.before.needs import ModelMemory, Needs, find_needs, memory_warnings, room_problems
from evovlm.merging.checkpoint.licences import Licence, forbids_sharing, licence_of, most_restrictive
from evovlm.merging.checkpoint.sources import Checkpoint, find_adapter
from evovlm.merging.models.ancestry import ancestry_warnings
from evovlm.merging.models.chat_change import ChatChange, chat_warnings
from evovlm.merging.models.compatibility import NamedCheckpoint, find_warnings, tensor_problems
from evovlm.merging.models.config_check import check_config
from evovlm.merging.models.description import describe_layout
from evovlm.merging.models.matching import match_models
from evovlm.merging.models.result_layout import ResultLayout
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.merging.models.vocabulary_policy import plan_rows, rowless_tokens, vocabulary_warnings
from evovlm.merging.paths.plan import PathPlan, path_problems
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.hub import HubModel, Wanted, hub_commit, missing_bytes
from evovlm.recipes.kinds import HybridMerge, Recipe
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge

_WANTED: tuple[Wanted, Wanted] = ("weights", "adapter")
_BLOCK = re.compile(r"\blayers\.\d+\.")
_Found = TypeVar("_Found")


def preflight_recipe(
    recipe: Recipe, *, out: Path | None = None, may_exist: bool = False, resident: ModelMemory | None = None
) -> Preflight:
    """Check a recipe of any kind without fetching weights; `out`, `may_exist` and `resident` are those of `preflight`.

    With `resident`, the host and all sources of a path are kept in memory. What the user can fix is not raised but
    returned among the problems.
    """
    if recipe.path is None:
        return preflight(recipe, out=out, may_exist=may_exist, resident=resident)
    if recipe.first_stage is None:
        return _preflight_path(recipe, out=out, may_exist=may_exist, resident=resident)
    return _preflight_hybrid(recipe, out=out, may_exist=may_exist, resident=resident)


def preflight(
    recipe: ParameterMerge, *, out: Path | None = None, may_exist: bool = False, resident: ModelMemory | None = None
) -> Preflight:
    """Check a merge without fetching weights.

    `out` is the target folder (None: not known yet; with `may_exist` it may be overwritten), `resident` says how a
    search keeps the model in memory. What the user can fix is not raised but returned among the problems.
    """
    found = Gathered()
    method = found.attempt(lambda: get_method(recipe))
    refs = _refs(recipe)
    models = _open_all(refs, found, declared=recipe.backbone)
    host = models["host"].stored_in(recipe.dtype) if "host" in models else None
    if host is not None:
        _compare(recipe, host, [model for name, model in models.items() if name != "host"], found)
    _check_parameters(recipe, method, host, found)
    reports = tuple(_report_of(model, refs[name], found) for name, model in models.items())
    check_out(out, found, may_exist=may_exist)
    needs = None
    if host is not None:
        needs = find_needs(
            host.checkpoint,
            n_models=len({report.text for report in reports}),
            download_bytes=sum(_downloads((refs[name] for name in models), found).values()),
            out=out,
            resident=resident,
            read=[model.checkpoint for name, model in models.items() if name != "host"],
            n_marked=len(recipe.sources) if recipe.settings.rescale == "l1" else 0,
        )
        found.problems += room_problems(needs, out=out)
        found.warnings += memory_warnings(needs, resident)
    return _summed_up(found, models, reports, needs=needs, result=ResultSize.like(host.checkpoint) if host else None)


def check_out(out: Path | None, found: "Gathered", *, may_exist: bool) -> None:
    """Note a problem if the target exists."""
    if out is not None and not may_exist and os.path.lexists(out):
        found.problems.append(
            OutputExists(f"{out} exists already.\n    Name a new folder; `merge --overwrite` replaces a model.")
        )


def _summed_up(
    found: "Gathered",
    models: Mapping[str, NamedCheckpoint],
    reports: tuple[ModelReport, ...],
    *,
    needs: Needs | None,
    result: ResultSize | None,
) -> Preflight:
    """Return what was found, with the models' licences."""
    licences = {
        text: licence_of(folder) for model in models.values() for text, folder in _folders(model.checkpoint, model.text)
    }
    found.warnings += [
        f"the licence of {name} does not allow sharing changed versions: do not publish the merge."
        for name in forbids_sharing(licences)
    ]
    return Preflight(
        models=reports,
        problems=tuple(_without_repeats(found.problems)),
        warnings=tuple(dict.fromkeys(found.warnings)),
        needs=needs,
        licence=most_restrictive(licences),
        result=result,
        chat=found.chat,
    )


class Gathered:
    """Collects problems and warnings, and what the result takes in place of the host's chat template."""

    def __init__(self) -> None:
        self.problems: list[EvovlmError] = []
        self.warnings: list[str] = []
        self.chat: ChatChange | None = None

    def attempt(self, look: Callable[[], _Found]) -> _Found | None:
        """Return what `look` returns, None when it finds a problem."""
        try:
            return look()
        except EvovlmError as error:
            self.problems.append(error)
            return None


def _refs(template: MergeTemplate) -> Mapping[str, ModelRef]:
    base = {"base": template.base} if template.base is not None else {}
    sources = {f"sources.{name}": template.sources[name] for name in sorted(template.sources)}
    return {**base, "host": template.host, **sources}


def _open_all(
    refs: Mapping[str, ModelRef], found: Gathered, *, declared: BackbonePrefixes | None = None
) -> Mapping[str, NamedCheckpoint]:
    """Open the headers of every model that can be opened; the others become problems."""
    opened = {
        ref: found.attempt(partial(Checkpoint.open_headers, ref, declared=declared))
        for ref in dict.fromkeys(refs.values())
    }
    named = {
        name: NamedCheckpoint(name=name, text=ref.text, checkpoint=checkpoint)
        for name, ref in refs.items()
        if (checkpoint := opened[ref]) is not None
    }
    return found.attempt(lambda: match_models(named, declared=declared)) or named


def _compare(
    template: MergeTemplate, host: NamedCheckpoint, others: Sequence[NamedCheckpoint], found: Gathered
) -> None:
    for model in others:
        found.problems += tensor_problems(model, host)
    # Another number of blocks is already a problem; all tensors would differ again.
    fitting = [model for model in others if model.checkpoint.layout.n_blocks == host.checkpoint.layout.n_blocks]
    base = next((model for model in fitting if model.name == "base"), None)
    sources = [model for model in fitting if model.name != "base"]
    # Without the recipe's base, the plan would ask for other rows.
    if base is not None or template.base is None:
        plan = partial(_plan, template, base=base, host=host, sources=sources, found=found)
        if all(model.checkpoint.has(name) for model in fitting for name in host.checkpoint.backbone_names()):
            found.attempt(plan)
    found.warnings += find_warnings(others, host, config_from=template.config_from)
    for model in (host, *others):
        found.attempt(partial(_check_dtypes, model.checkpoint))
        found.attempt(partial(check_config, model.checkpoint))
        found.warnings += found.attempt(partial(rowless_tokens, model)) or ()


def _plan(
    template: MergeTemplate,
    *,
    base: NamedCheckpoint | None,
    host: NamedCheckpoint,
    sources: Sequence[NamedCheckpoint],
    found: Gathered,
) -> None:
    """Plan result and rows as the merger will; raises problems of the result as a whole."""
    result = ResultLayout.plan(template, base=base, host=host, sources=sources)
    vocabulary, new = template.vocabulary, result.new_tokens
    planned = [
        found.attempt(partial(plan_rows, name, base=base, host=host, sources=sources, vocabulary=vocabulary, new=new))
        for name in result.tensor_names
    ]
    if None not in planned:
        found.warnings += vocabulary_warnings(base=base, host=host, sources=sources, vocabulary=vocabulary, new=new)
        found.warnings += ancestry_warnings(base=base, host=host, sources=sources)
    found.warnings += chat_warnings(template, host=host, sources=sources)
    found.warnings += result.chat.notes if result.chat is not None else ()
    found.chat = result.chat


def _check_dtypes(checkpoint: Checkpoint) -> None:
    """Raise BrokenCheckpoint when the backbone contains other tensors than plain floats."""
    for name in checkpoint.backbone_names():
        checkpoint.plain_place(name)


def _check_parameters(
    recipe: ParameterMerge, method: Method | None, host: NamedCheckpoint | None, found: Gathered
) -> None:
    if method is not None:
        found.attempt(lambda: check_parameters(method, recipe))
    if host is None:
        return
    found.attempt(lambda: check_tensor_names(recipe, [*host.checkpoint.backbone_names(), HEAD]))
    units = host.checkpoint.layout.n_blocks + 2
    found.problems += [
        ConfigError(
            f"parameters: a list of {length} numbers, but {units} are needed for {units - 2} blocks: embedding, "
            "each block, head."
        )
        for length in sorted(recipe.unit_lengths() - {units})
    ]


def _folders(checkpoint: Checkpoint, text: str) -> Sequence[tuple[str, Path]]:
    """Return the folders that a model consists of, each with what names it."""
    if checkpoint.adapter is None:
        return [(text, checkpoint.folder)]
    return [(f"the base of {text}", checkpoint.folder), (text, checkpoint.adapter)]


def _report_of(model: NamedCheckpoint, ref: ModelRef, found: Gathered) -> ModelReport:
    """Return a report of a model's headers and card."""
    checkpoint = model.checkpoint
    codes = sorted({checkpoint.place(name).dtype_code for name in checkpoint.backbone_names()})
    shape = checkpoint.shape(EMBEDDING)
    return ModelReport(
        name=model.name,
        text=model.text,
        commit=hub_commit(checkpoint.folder),
        model_type=checkpoint.layout.model_type,
        text_model_type=checkpoint.layout.text_model_type,
        n_blocks=checkpoint.layout.n_blocks,
        hidden_size=shape[-1],
        vocabulary_rows=shape[0],
        dtype=", ".join(codes),
        licence=" and ".join(dict.fromkeys(str(licence_of(folder)) for _, folder in _folders(checkpoint, model.text))),
        size_bytes=sum(place.size_bytes for place in checkpoint.places.values()),
        download_bytes=sum(_downloads([ref], found).values()),
        recognised=describe_layout(model.checkpoint, is_host=model.name == "host"),
    )


def _downloads(refs: Iterable[ModelRef], found: Gathered) -> Mapping[str, int]:
    """Return the bytes to fetch of each model and adapter on the hub; it is fetched once, whatever its roles."""
    missing: dict[str, int] = {}
    for ref in refs:
        parts = found.attempt(partial(find_adapter, ref))
        for part, wanted in zip(parts or (), _WANTED, strict=False):
            on_hub = part.find() if part is not None else None
            if part is not None and isinstance(on_hub, HubModel) and part.text not in missing:
                missing[part.text] = found.attempt(partial(missing_bytes, on_hub, wanted=wanted)) or 0
    return missing


def _without_repeats(problems: Sequence[EvovlmError]) -> Sequence[EvovlmError]:
    """Return the problems, with one for all blocks in place of the same problem in several blocks."""
    first: dict[tuple[type[EvovlmError], str], EvovlmError] = {}
    counts: dict[tuple[type[EvovlmError], str], int] = {}
    for problem in problems:
        key = (type(problem), _BLOCK.sub("layers.*.", str(problem)))
        first.setdefault(key, problem)
        counts[key] = counts.get(key, 0) + 1
    return [
        problem if counts[key] == 1 else type(problem)(_in_many(str(problem), counts[key] - 1))
        for key, problem in first.items()
    ]


def _in_many(message: str, more: int) -> str:
    head, *rest = message.split("\n", 1)
    return "\n".join([f"{head} The same holds for {more} more block{'s' if more > 1 else ''}.", *rest])


def _preflight_path(
    recipe: LayerPathMerge,
    *,
    out: Path | None,
    may_exist: bool,
    resident: ModelMemory | None,
    meanwhile_bytes: int = 0,
    merged: Collection[str] = (),
) -> Preflight:
    """Check a path; `merged` are the names of models that stand in for a first stage's result."""
    found = Gathered()
    refs = recipe.models()
    models = _open_all(refs, found, declared=recipe.backbone)
    result = _compare_path(recipe, models, found)
    reports = tuple(_report_of(model, refs[name], found) for name, model in models.items())
    check_out(out, found, may_exist=may_exist)
    needs = None
    if result is not None:
        download_bytes = sum(_downloads((refs[name] for name in models), found).values())
        needs = _path_needs(models, download_bytes=download_bytes, out=out, resident=resident, merged=merged)
        needs = replace(needs, result_bytes=result.size_bytes, meanwhile_bytes=meanwhile_bytes)
        found.problems += room_problems(needs, out=out)
        found.warnings += memory_warnings(needs, resident)
    return _summed_up(found, models, reports, needs=needs, result=result)


def _compare_path(recipe: LayerPathMerge, models: Mapping[str, NamedCheckpoint], found: Gathered) -> ResultSize | None:
    """Note what does not fit; return the size of the result if all models were opened and fit."""
    problems = list(path_problems(recipe, models))
    found.problems += problems
    for model in models.values():
        found.attempt(partial(_check_dtypes, model.checkpoint))
        found.warnings += found.attempt(partial(rowless_tokens, model)) or ()
    if problems or len(models) < len(recipe.models()):
        return None
    for model in models.values():
        found.attempt(partial(check_config, model.checkpoint))
    written = {**models, "host": models["host"].stored_in(recipe.dtype)}
    plan = found.attempt(lambda: PathPlan.of(recipe, written))
    if plan is None:
        return None
    found.warnings += plan.warnings
    found.chat = plan.path_host.chat
    return ResultSize(n_blocks=len(recipe.path), n_parameters=plan.n_parameters, size_bytes=plan.size_bytes)


def _path_needs(
    models: Mapping[str, NamedCheckpoint],
    *,
    download_bytes: int,
    out: Path | None,
    resident: ModelMemory | None,
    merged: Collection[str],
) -> Needs:
    # Every model is loaded once; a first stage's result is another model than its host.
    loaded = {(model.checkpoint.folder, name in merged): model.checkpoint for name, model in models.items()}
    host = models["host"].checkpoint
    del loaded[host.folder, "host" in merged]
    return find_needs(
        host,
        n_models=1,
        download_bytes=download_bytes,
        out=out,
        resident=resident,
        beside=tuple(loaded.values()),
    )


def _preflight_hybrid(
    recipe: HybridMerge, *, out: Path | None, may_exist: bool, resident: ModelMemory | None
) -> Preflight:
    """Check both stages; the first stage's host is checked for its result, whose blocks have the same shapes."""
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
    refs = (*recipe.ps.models().values(), *recipe.sources.values(), *([recipe.host] if recipe.host else []))
    needs = second.needs and replace(second.needs, download_bytes=sum(_downloads(refs, Gathered()).values()))
    models = (*(replace(model, name=f"ps.{model.name}") for model in first.models), *further)
    return replace(
        second,
        models=models,
        problems=tuple({str(each): each for each in (*first.problems, *second.problems)}.values()),
        warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
        needs=needs,
        licence=most_restrictive({model.text: Licence(id=model.licence) for model in models}),
        chat=first.chat if recipe.host is None else None,
    )
