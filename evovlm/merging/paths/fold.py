"""A path's scales as changes of weights, so that an ordinary checkpoint computes the same as the path.

Write a pre-norm block as x <- x + attn(norm(x)), x <- x + mlp(norm(x)), and let s_t be the scale before hop t.

`stream`: x <- s_t x before hop t. With P_t = s_0 ... s_t, let x = P_t h. A norm of P_t h equals the norm of sign(P_t) h
(except for eps, which stays the same while the mean square that it is added to is divided by P_t squared), so that
h <- h + branch / P_t computes the same: the output of every later branch is divided by P_t, the norms that read h
change sign where P_t is negative, and the final norm cancels the remaining factor. s_t = 0 cannot be expressed.

`pending`: the output of the MLP of hop t - 1 is multiplied by s_t, and the embedding by s_0. If the embedding cannot be
changed, because pictures enter beside it, s_0 is treated as a scale of the whole stream, as above.

The output of a branch is linear in the weights (and biases) of `o_proj` and `down_proj`, or, in families that norm it
again, in the factors of that norm; biases before those and norms of queries and keys do not change.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import ConfigError
from evovlm.recipes.families import TextFamily
from evovlm.recipes.layer_path import LayerPath, ScaleTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of a tensor's numbers x: `factor` x + `shift`."""

    factor: float = 1.0
    shift: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether every number stays the same."""
        return self.factor == 1.0 and self.shift == 0.0


UNCHANGED = Change()


@dataclass(frozen=True, slots=True, kw_only=True)
class HopFold:
    """One hop: the factors on the outputs of its attention and its MLP, and on those of its norms (1 or -1)."""

    attention: float = 1.0
    mlp: float = 1.0
    norms: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFold:
    """A whole path: its hops, the factor on the embedding, and the factor on the final norm (1 or -1)."""

    hops: tuple[HopFold, ...]
    embedding: float = 1.0
    final_norm: float = 1.0

    def change_in_hop(self, number: int, tensor: str, family: TextFamily) -> Change:
        """Return the change of a tensor of hop `number`, named as in `model.layers.{i}.` (`mlp.up_proj.weight`)."""
        module = tensor.rpartition(".")[0]
        hop = self.hops[number]
        return {
            _branch_end("attention", family): _of_end(hop.attention, family),
            _branch_end("mlp", family): _of_end(hop.mlp, family),
            "input_layernorm": _of_norm(hop.norms, family),
            _second_norm(family): _of_norm(hop.norms, family),
        }.get(module, UNCHANGED)

    def change_of_final_norm(self, family: TextFamily) -> Change:
        """Return the change of the final norm's weight."""
        return _of_norm(self.final_norm, family)


def fold_path(path: LayerPath, scale_target: ScaleTarget, *, sees: bool = False, n_added: int = 0) -> PathFold:
    """Return the changes of weights that are equivalent to the path's scales.

    `sees`: pictures enter beside the embedding; `n_added`: number of first hops after which a vision encoder adds to
    the stream. Raises ConfigError, with the reason, for scales that no weights can express.
    """
    scales = [step.scale for step in path.steps]
    if scale_target == "stream":
        return _fold_stream(scales, n_added=n_added)
    mlps = [*scales[1:], 1.0]
    if not sees or scales[0] == 1.0:
        return PathFold(hops=tuple(HopFold(mlp=scale) for scale in mlps), embedding=scales[0])
    if scales[0] == 0.0:
        raise ConfigError(
            "path[0]: its scale 0 also removes the embedding of pictures, which the language model's weights cannot do."
        )
    constant = _fold_stream([scales[0], *[1.0] * len(mlps[1:])], n_added=n_added)
    hops = [
        HopFold(attention=hop.attention, mlp=hop.mlp * scale, norms=hop.norms)
        for hop, scale in zip(constant.hops, mlps, strict=True)
    ]
    return PathFold(hops=tuple(hops), final_norm=constant.final_norm)


def _fold_stream(scales: list[float], *, n_added: int) -> PathFold:
    hops: list[HopFold] = []
    product = 1.0
    for number, scale in enumerate(scales):
        if scale == 0.0:
            raise ConfigError(
                f"path[{number}]: its scale 0 removes the whole stream, which no weights can do.\n"
                "    Begin the path at this step, or leave the step out."
            )
        product *= scale
        if not math.isfinite(product) or not math.isfinite(1 / product if product else math.inf):
            raise ConfigError(f"path[{number}]: up to here the scales multiply to {product}, which cannot be inverted.")
        if number < n_added and product != 1.0:
            raise ConfigError(
                f"path[{number}]: up to here the scales multiply to {product:g}, but the host's vision encoder adds "
                f"to the stream after each of the first {n_added} hops, and its weights are not scaled.\n"
                "    Scale only later hops, or use `scale_target: pending` with a first scale of 1."
            )
        hops.append(HopFold(attention=1 / product, mlp=1 / product, norms=math.copysign(1.0, product)))
    return PathFold(hops=tuple(hops), final_norm=math.copysign(1.0, product))


def running_products(path: LayerPath) -> tuple[float, ...]:
    """Return the product of the scales up to each hop."""
    found: list[float] = []
    for step in path.steps:
        found.append((found[-1] if found else 1.0) * step.scale)
    return tuple(found)


_ENDS: Mapping[str, tuple[str, str]] = {
    "attention": ("self_attn.o_proj", "post_attention_layernorm"),
    "mlp": ("mlp.down_proj", "post_feedforward_layernorm"),
}


def _branch_end(branch: str, family: TextFamily) -> str:
    """Return the module whose output a branch adds to the stream."""
    return _ENDS[branch][family.post_norms]


def _second_norm(family: TextFamily) -> str:
    """Return the norm that the MLP reads the stream through."""
    return "pre_feedforward_layernorm" if family.post_norms else "post_attention_layernorm"


def _of_end(factor: float, family: TextFamily) -> Change:
    return _of_norm(factor, family) if family.post_norms else Change(factor=factor)


def _of_norm(factor: float, family: TextFamily) -> Change:
    # f (1 + w) is 1 + (f w + f - 1).
    return Change(factor=factor, shift=factor - 1.0 if family.norm_adds_one else 0.0)
