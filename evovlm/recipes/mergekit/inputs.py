"""Which models a mergekit file merges, and the role of each: base, source, or only host."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from evovlm.recipes.mergekit.document import MergekitDocument, ModelEntry, SliceSource
from evovlm.recipes.mergekit.methods import MergekitMethod
from evovlm.recipes.mergekit.values import Refusal
from evovlm.recipes.yaml_text import KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A model in one slice of the file, with the parameters below it."""

    model: str
    parameters: Mapping[str, object]
    place: KeyPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice of the result, `n_blocks` long; the only one of a file with `models:`, with None for all blocks."""

    sources: tuple[Input, ...]
    parameters: Mapping[str, object]
    place: KeyPath
    n_blocks: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The models of a file, as written: `sources` in its order, without the `base` that deltas are taken from.

    `names` has a recipe's name for each source; `default_host` gives the config where the file does not say more.
    """

    slices: tuple[Slice, ...]
    base: str | None
    sources: tuple[str, ...]
    names: Mapping[str, str]
    default_host: str

    @property
    def models(self) -> tuple[str, ...]:
        """Every model, the host and the base first."""
        base = (self.base,) if self.base is not None else ()
        return tuple(dict.fromkeys((self.default_host, *base, *self.sources)))


def find_inputs(document: MergekitDocument, method: MergekitMethod) -> Inputs:
    """Return what the file merges.

    Raises Refusal for a form that merges no whole models, a base or a number of sources that the method cannot have.
    """
    if document.form is None:
        raise Refusal((), "exactly one of models and slices says what is merged.")
    slices = _whole_model(document) if document.form == "models" else _slices(document)
    merged = tuple(source.model for source in slices[0].sources)
    base = document.base_model
    if method.base == "required" and (base is None or base not in merged):
        missing = "missing" if base is None else f"'{base}' is not among the sources of the slices"
        place: KeyPath = ("merge_method",) if base is None else ("base_model",)
        raise Refusal(place, f"base_model: {missing}; {document.merge_method} needs it.")
    own_base = base if method.base != "input" and base in merged else None
    sources = tuple(model for model in merged if model != own_base)
    if len(sources) < method.min_sources or len(sources) > (method.max_sources or len(sources)):
        raise Refusal(
            (document.form,),
            f"{document.form}: {document.merge_method} merges {_count(method)}, not {len(sources)}.",
        )
    return Inputs(
        slices=slices,
        base=own_base,
        sources=sources,
        names=name_sources(sources, document.evovlm.sources),
        default_host=base if base is not None else sources[0],
    )


def _whole_model(document: MergekitDocument) -> tuple[Slice, ...]:
    entries: Sequence[ModelEntry] = document.models or ()
    sources = [
        Input(model=entry.model, parameters=entry.parameters or {}, place=("models", index))
        for index, entry in enumerate(entries)
    ]
    base = document.base_model
    if base is not None and all(source.model != base for source in sources):
        sources.append(Input(model=base, parameters={}, place=("base_model",)))
    _refuse_repeated(sources)
    return (Slice(sources=tuple(sources), parameters={}, place=("models",), n_blocks=None),)


def _slices(document: MergekitDocument) -> tuple[Slice, ...]:
    slices: list[Slice] = []
    start = 0
    for index, each in enumerate(document.slices or ()):
        place: KeyPath = ("slices", index)
        sources = tuple(
            Input(model=source.model, parameters=source.parameters or {}, place=(*place, "sources", at))
            for at, source in enumerate(each.sources)
        )
        _refuse_repeated(sources)
        if each.base_model not in (None, document.base_model):
            raise Refusal((*place, "base_model"), "base_model: a recipe has one base for all slices.")
        if slices:
            _refuse_others(sources, slices[0].sources, place=(*place, "sources"))
        end = _end_of(each.sources, start=start, place=(*place, "sources"))
        slices.append(Slice(sources=sources, parameters=each.parameters or {}, place=place, n_blocks=end - start))
        start = end
    return tuple(slices)


def _end_of(sources: Sequence[SliceSource], *, start: int, place: KeyPath) -> int:
    """Return where the slice ends; raises Refusal unless all sources give the blocks that come next."""
    end = sources[0].layer_range[1]
    for index, source in enumerate(sources):
        if source.layer_range != [start, end] or end <= start:
            raise Refusal(
                (*place, index, "layer_range"),
                f"layer_range: {source.layer_range}, but here come blocks {start} and following of every model; a "
                "recipe merges whole models, block by block. Another order makes a layer path.",
            )
    return end


def _refuse_others(sources: Sequence[Input], first: Sequence[Input], *, place: KeyPath) -> None:
    known = {source.model for source in first}
    other = next((source.place for source in sources if source.model not in known), place)
    if other != place or len(sources) < len(first):
        raise Refusal(
            other,
            "sources: other models than in the first slice; a recipe merges the same models in every block. Blocks of "
            "one model after those of another make a layer path.",
        )


def _refuse_repeated(sources: Sequence[Input]) -> None:
    seen: set[str] = set()
    for source in sources:
        if source.model in seen:
            raise Refusal(source.place, f"model: '{source.model}' is given twice.")
        seen.add(source.model)


def _count(method: MergekitMethod) -> str:
    at_least, at_most = method.min_sources, method.max_sources
    number = str(at_least) if at_least == at_most else f"{at_least} or more" if at_most is None else f"{at_most}"
    return f"{number} model{'' if number == '1' else 's'}" + (" besides the base" if method.base != "input" else "")


def name_sources(sources: Sequence[str], given: Mapping[str, str]) -> Mapping[str, str]:
    """Return a name for each source: the one the file gives, else the last part of its path or id."""
    for name, model in given.items():
        place: KeyPath = ("evovlm", "sources", name)
        if model not in sources:
            raise Refusal(place, f"evovlm.sources.{name}: '{model}' is not a source.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise Refusal(place, f"evovlm.sources: '{name}' is not a name; letters, digits, '-' and '_' make one.")
    return {**{model: name for name, model in given.items()}, **source_names(sources, given)}


def source_names(models: Sequence[str], given: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Return a name for each model that is not among the `given` ones (by name): the last part of its path or id."""
    named, taken = set((given or {}).values()), set(given or {})
    names: dict[str, str] = {}
    for model in models:
        if model in named:
            continue
        last = PurePosixPath(model.rpartition("+")[2].partition("@")[0]).name
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", last).strip("-_") or "source"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        names[model] = name
        taken.add(name)
    return names
