"""mergekit's slices of one model after another ("frankenmerges") as a path through layers.

merge_method: passthrough
slices:
  - sources: [{model: org/one, layer_range: [0, 16]}]
  - sources: [{model: org/two, layer_range: [8, 24], parameters: {scale: [{filter: down_proj, value: 0.7}]}}]

mergekit takes the embedding from the model of the first slice, final norm and head from that of the last. A scale of
`down_proj` is that of the next step (`pending`), one of `o_proj` and `down_proj` divides the stream (`stream`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.recipes.families import ANY_BLOCK
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep, ScaleTarget
from evovlm.recipes.mergekit.document import MergekitDocument, SliceSource
from evovlm.recipes.mergekit.inputs import name_sources
from evovlm.recipes.mergekit.values import Refusal, Scope, Tensor, resolve
from evovlm.recipes.model_config import MOST_BLOCKS
from evovlm.recipes.model_ref import ModelRef, count_blocks, parse_model_ref, read_config
from evovlm.recipes.yaml_text import KeyPath

_SCALE = "scale"
_ATTENTION, _MLP = "self_attn.o_proj.", "mlp.down_proj."
_CLOSE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """What a hop's tensors are multiplied by: the ends of attention and MLP, and the norms (1 or -1)."""

    attention: float = 1.0
    mlp: float = 1.0
    norms: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folded:
    """What a whole path's tensors are multiplied by."""

    hops: tuple[_Factors, ...]
    embedding: float = 1.0
    final_norm: float = 1.0


def is_path(document: MergekitDocument, folder: Path) -> bool:
    """Return whether the slices of a file of `folder` do not put together one whole model in its own order."""
    if document.merge_method != "passthrough" or document.form != "slices":
        return False
    sources = [source for each in document.slices or () for source in each.sources]
    ranges = [source.layer_range for source in sources]
    in_order = all(start == end for (start, _), (_, end) in zip(ranges, [[0, 0], *ranges], strict=False))
    if document.evovlm.scale_target is not None or not in_order or len({source.model for source in sources}) > 1:
        return True
    config = read_config(parse_model_ref(sources[0].model, relative_to=folder))
    return config is not None and count_blocks(config) != ranges[-1][1]


def path_of_slices(document: MergekitDocument, folder: Path) -> LayerPathMerge:
    """Return the path that the slices of a file of `folder` mean. Raises Refusal for what no path does."""
    slices = tuple(_only_source(document, index) for index in range(len(document.slices or ())))
    n_hops = sum(end - first for first, end in (source.layer_range for source in slices))
    if n_hops > MOST_BLOCKS:
        raise Refusal(("slices",), f"slices: have {n_hops} blocks; a path has at most {MOST_BLOCKS}.")
    # A recipe may have sources that its path does not lead through.
    models = tuple(dict.fromkeys((*(source.model for source in slices), *document.evovlm.sources.values())))
    refs = {text: parse_model_ref(text, relative_to=folder) for text in models}
    host = _host(document, slices, refs, folder)
    names = name_sources(models, document.evovlm.sources)
    hops = [(source.model, layer) for source in slices for layer in range(*source.layer_range)]
    target, scales = _scales(document, slices, n_hops=len(hops))
    steps = [
        LayerStep(source=names[model], layer=layer, scale=scale)
        for (model, layer), scale in zip(hops, scales, strict=True)
    ]
    return LayerPathMerge(
        host=host,
        sources={names[text]: refs[text] for text in models},
        path=LayerPath(steps=tuple(steps)),
        scale_target=target,
    )


def _only_source(document: MergekitDocument, index: int) -> SliceSource:
    place: KeyPath = ("slices", index, "sources")
    part = (document.slices or [])[index]
    if part.base_model not in (None, document.base_model):
        raise Refusal(("slices", index, "base_model"), "base_model: a recipe has one base for all slices.")
    if len(part.sources) != 1:
        raise Refusal(place, f"sources: passthrough takes 1 model in a slice, not {len(part.sources)}.")
    (source,) = part.sources
    first, end = source.layer_range
    if not 0 <= first < end:
        raise Refusal((*place, 0, "layer_range"), f"layer_range: [{first}, {end}] has no blocks; the end is left out.")
    return source


def _host(
    document: MergekitDocument, slices: Sequence[SliceSource], refs: Mapping[str, ModelRef], folder: Path
) -> ModelRef:
    """Return the model that gives config, tokenizer, embedding, final norm and head."""
    host = refs[slices[0].model]
    last: KeyPath = ("slices", len(slices) - 1, "sources", 0, "model")
    if refs[slices[-1].model].identity != host.identity:
        raise Refusal(
            last,
            f"model: '{slices[-1].model}' would give final norm and head, and '{slices[0].model}' the embedding; a "
            "path takes all three from its host. Begin and end with the same model.",
        )
    base, tokenizer = document.base_model, document.tokenizer
    if base is not None and parse_model_ref(base, relative_to=folder).identity != host.identity:
        raise Refusal(
            ("base_model",),
            f"base_model: '{base}' would give the config, and '{slices[0].model}' the embedding; a path takes both "
            "from its host. Remove the line, or begin with that model.",
        )
    for place, source in (
        (("tokenizer_source",), document.tokenizer_source),
        (("tokenizer", "source"), tokenizer.source if tokenizer is not None else None),
    ):
        if source not in (None, "base", slices[0].model):
            raise Refusal(place, f"{place[-1]}: a path keeps the tokenizer of its host, '{slices[0].model}'.")
    return host


def _scales(
    document: MergekitDocument, slices: Sequence[SliceSource], *, n_hops: int
) -> tuple[ScaleTarget, tuple[float, ...]]:
    """Return scales whose fold multiplies the tensors as the file does; Refusal when there are none."""
    found = _factors(document, slices)
    own = document.evovlm
    stated = [(own.scale_target, own.scales)] if own.scale_target is not None and own.scales is not None else []
    candidates: list[tuple[ScaleTarget, tuple[float, ...]]] = [
        *[(target, tuple(scales)) for target, scales in stated if len(scales) == n_hops],
        ("pending", (found.embedding, *(hop.mlp for hop in found.hops[:-1]))),
    ]
    products = [1 / hop.mlp if hop.mlp else math.inf for hop in found.hops]
    if all(map(math.isfinite, products)):
        before = [1.0, *products[:-1]]
        candidates.append(("stream", tuple(now / past for now, past in zip(products, before, strict=True))))
    for target, scales in candidates:
        if _is_close(_folded(target, scales), found):
            return target, scales
    raise Refusal(
        _place_of_scale(document),
        "scale: no scales of a path multiply the weights like this. A path scales the embedding and each "
        "mlp.down_proj but the last, or self_attn.o_proj and mlp.down_proj of each block alike.",
    )


def _folded(target: ScaleTarget, scales: Sequence[float]) -> _Folded:
    """Return how a path's scales change weights where a branch ends in a projection (merging/paths/fold.py)."""
    if target == "pending":
        return _Folded(hops=tuple(_Factors(mlp=scale) for scale in (*scales[1:], 1.0)), embedding=scales[0])
    product, hops = 1.0, []
    for scale in scales:
        product *= scale
        by = 1 / product if product else math.nan
        hops.append(_Factors(attention=by, mlp=by, norms=math.copysign(1.0, product)))
    return _Folded(hops=tuple(hops), final_norm=math.copysign(1.0, product))


def _is_close(one: _Folded, other: _Folded) -> bool:
    pairs = zip(_numbers(one), _numbers(other), strict=True)
    return all(math.isclose(left, right, rel_tol=_CLOSE) for left, right in pairs)


def _numbers(folded: _Folded) -> Iterator[float]:
    for hop in folded.hops:
        yield from (hop.attention, hop.mlp, hop.norms)
    yield from (folded.embedding, folded.final_norm)


def _factors(document: MergekitDocument, slices: Sequence[SliceSource]) -> _Folded:
    """Return what the file multiplies the tensors by. Raises Refusal where tensors of one kind differ, or others do."""
    hops: list[_Factors] = []
    for part, source in enumerate(slices):
        for index in range(*source.layer_range):
            place = (index - source.layer_range[0]) / max(source.layer_range[1] - source.layer_range[0] - 1, 1)
            factors: dict[str, float] = {}
            for name in ANY_BLOCK:
                tensor = Tensor(f"model.layers.{len(hops)}.{name}", len(hops) + 1, "rest", part, place)
                kind = _kind(name)
                factor = _factor(document, source, tensor)
                if (kind is None and factor != 1.0) or factors.setdefault(kind or "", factor) != factor:
                    raise Refusal(
                        _place_of_scale(document), f"scale: multiplies {tensor.name} by {factor:g}, which no path does."
                    )
            del factors[""]
            hops.append(_Factors(**factors))
    last = len(slices) - 1
    ends = {
        "embedding": Tensor("model.embed_tokens.weight", 0, "rest", 0, 0.0),
        "final_norm": Tensor("model.norm.weight", len(hops) + 1, "norms", last, 0.0),
        "head": Tensor("lm_head.weight", len(hops) + 1, "rest", last, 0.0),
    }
    found = {name: _factor(document, slices[tensor.part], tensor) for name, tensor in ends.items()}
    if found.pop("head") != 1.0:
        raise Refusal(_place_of_scale(document), "scale: multiplies the head, which no path does.")
    return _Folded(hops=tuple(hops), **found)


def _kind(name: str) -> str | None:
    if name.startswith(_ATTENTION):
        return "attention"
    if name.startswith(_MLP):
        return "mlp"
    # Norms inside the attention do not read the stream.
    return "norms" if name in ("input_layernorm.weight", "post_attention_layernorm.weight") else None


def _factor(document: MergekitDocument, source: SliceSource, tensor: Tensor) -> float:
    place: KeyPath = ("slices", tensor.part)
    levels: list[tuple[KeyPath, Mapping[str, object]]] = [
        ((*place, "sources", 0, "parameters"), source.parameters or {}),
        ((*place, "parameters"), (document.slices or [])[tensor.part].parameters or {}),
        (("parameters",), document.parameters or {}),
    ]
    scopes = [Scope((*where, _SCALE), given[_SCALE]) for where, given in levels if _SCALE in given]
    found = resolve(scopes, tensor, kind="number")
    return 1.0 if found is None else float(found.value)


def _place_of_scale(document: MergekitDocument) -> KeyPath:
    for index, each in enumerate(document.slices or ()):
        for source in each.sources:
            if _SCALE in (source.parameters or {}):
                return ("slices", index, "sources", 0, "parameters", _SCALE)
        if _SCALE in (each.parameters or {}):
            return ("slices", index, "parameters", _SCALE)
    return ("parameters", _SCALE)
