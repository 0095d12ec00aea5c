"""A path through layers as a mergekit file of slices, or the reason why it cannot be written.

mergekit's passthrough takes ranges of blocks and multiplies chosen tensors; the embedding comes from the model of the
first slice, final norm and head from that of the last, and the config, except the number of blocks, from the base.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from evovlm.errors import ConfigError
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.merging.paths.config import attention_kinds
from evovlm.merging.paths.fold import Change, PathFold, fold_path
from evovlm.recipes.families import TextFamily, text_family
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.mergekit.writing import check_nameable, choice_lines, dtype_lines, model_text, scalar_text_of
from evovlm.recipes.model_ref import ModelRef, read_config

_HOP_MODULES = (
    "self_attn.o_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_EMBEDDING, _FINAL_NORM = "embed_tokens", "model.norm"


class _Slice(NamedTuple):
    """Blocks `first` to `last` of a source, and the factors on their tensors by a part of their names."""

    source: str
    first: int
    last: int
    factors: Mapping[str, float]


def path_to_mergekit(recipe: LayerPathMerge) -> str:
    """Return the text of a mergekit file (0.1.5) whose merge has the same weights as the recipe's checkpoint.

    Models on this machine are written as absolute folders. Raises ConfigError that names what mergekit cannot do.
    """
    for name, ref in recipe.models().items():
        check_nameable(name, ref)
    _check_ends(recipe)
    layout = _layout(recipe.host)
    _check_config(recipe, layout)
    fold = fold_path(recipe.path, recipe.scale_target)
    if layout.tied and fold.embedding != 1.0:
        raise ConfigError(
            f"path[0]: its scale multiplies the embedding, which '{recipe.host.text}' also uses as its head; mergekit "
            "cannot separate them."
        )
    slices = _slices(recipe, fold, text_family(layout.text_model_type))
    return "\n".join(_lines(recipe, slices)) + "\n"


def _check_ends(recipe: LayerPathMerge) -> None:
    steps = recipe.path.steps
    for number, what in ((0, "embedding"), (len(steps) - 1, "final norm and head")):
        ref = recipe.sources[steps[number].source]
        if ref.identity != recipe.host.identity:
            raise ConfigError(
                f"path[{number}]: mergekit takes the {what} from the model of this block, '{ref.text}', and cannot "
                f"take it from the host '{recipe.host.text}'."
            )


def _layout(ref: ModelRef) -> BackboneLayout:
    config = read_config(ref)
    if config is None:
        raise ConfigError(
            f"'{ref.text}': its config.json is not on this machine, and which weights a scale changes depends on the "
            "architecture.\n    Run `evovlm check` on the recipe first, which fetches it."
        )
    return BackboneLayout.from_config(config)


def _check_config(recipe: LayerPathMerge, host: BackboneLayout) -> None:
    """Raise ConfigError where the host's config does not fit the result: mergekit changes only its number of blocks."""
    family = text_family(host.text_model_type)
    if family.tied and not host.tied:
        raise ConfigError(
            f"host: '{recipe.host.text}' has a separate head, which mergekit drops for {host.model_type}."
        )
    if not family.has_attention_kinds:
        return
    kinds = {name: attention_kinds(_layout(recipe.sources[name])) for name in recipe.path.sources}
    if tuple(kinds[step.source][step.layer] for step in recipe.path.steps) != attention_kinds(host):
        raise ConfigError(
            f"path: {len(recipe.path)} hops, but the config of '{recipe.host.text}' lists the attention kinds of its "
            f"{host.n_blocks} blocks; mergekit keeps that list, which does not fit the path."
        )


def _slices(recipe: LayerPathMerge, fold: PathFold, family: TextFamily) -> list[_Slice]:
    found: list[_Slice] = []
    for number, step in enumerate(recipe.path.steps):
        changes = {name: fold.change_in_hop(number, f"{name}.weight", family) for name in _HOP_MODULES}
        if number == 0:
            changes[_EMBEDDING] = Change(factor=fold.embedding)
        if number == len(recipe.path) - 1:
            changes[_FINAL_NORM] = fold.change_of_final_norm(family)
        factors = {name: _factor(change, number, family) for name, change in changes.items() if not change.is_none}
        before = found[-1] if found else None
        if before and (before.source, before.last + 1, before.factors) == (step.source, step.layer, factors):
            found[-1] = before._replace(last=step.layer)
        else:
            found.append(_Slice(step.source, step.layer, step.layer, factors))
    return found


def _factor(change: Change, number: int, family: TextFamily) -> float:
    if change.shift != 0.0:
        raise ConfigError(
            f"path[{number}]: its scale changes a norm, whose factor is its weight plus 1 in {family.architecture}; "
            "mergekit multiplies only the weight."
        )
    return change.factor


def _own(recipe: LayerPathMerge) -> Iterator[str]:
    """Yield the part that mergekit ignores, with which evovlm reads the file as the same recipe again."""
    yield "evovlm:"
    yield f"  scale_target: {recipe.scale_target}"
    yield f"  scales: [{', '.join(scalar_text_of(step.scale) for step in recipe.path.steps)}]"
    yield "  sources:"
    yield from (f"    {name}: {model_text(ref)}" for name, ref in recipe.sources.items())


def _lines(recipe: LayerPathMerge, slices: list[_Slice]) -> Iterator[str]:
    yield f"# Written by evovlm from recipe {recipe.recipe_id}, for mergekit 0.1.5: mergekit-yaml THIS OUT"
    yield "merge_method: passthrough"
    yield f"base_model: {model_text(recipe.host)}"
    yield from dtype_lines(recipe.host, recipe.dtype)
    yield from choice_lines(recipe)
    yield from _own(recipe)
    yield "slices:"
    for each in slices:
        yield "  - sources:"
        yield f"      - model: {model_text(recipe.sources[each.source])}"
        yield f"        layer_range: [{each.first}, {each.last + 1}]"
        if each.factors:
            yield "        parameters:"
            yield "          scale:"
            for name, factor in each.factors.items():
                yield f"            - {{filter: {name}, value: {scalar_text_of(factor)}}}"
