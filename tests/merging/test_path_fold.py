"""What a path's scales make of weights, and what they cannot be folded into."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import ConfigError
from evovlm.merging.paths.fold import UNCHANGED, Change, fold_path, running_products
from evovlm.recipes.families import TEXT_FAMILIES
from evovlm.recipes.layer_path import LayerPath, LayerStep

LLAMA, GEMMA, GEMMA2 = (TEXT_FAMILIES[name] for name in ("llama", "gemma", "gemma2"))


def path_with(*scales: float) -> LayerPath:
    return LayerPath(steps=tuple(LayerStep(source="a", layer=0, scale=scale) for scale in scales))


def test_without_scales_nothing_changes() -> None:
    for target in ("pending", "stream"):
        fold = fold_path(path_with(1, 1, 1), target, sees=True, n_added=2)  # type: ignore[arg-type]
        assert fold.embedding == fold.final_norm == 1.0
        for family in TEXT_FAMILIES.values():
            for number in range(3):
                for tensor in ("self_attn.o_proj.weight", "mlp.down_proj.bias", "input_layernorm.weight"):
                    assert fold.change_in_hop(number, tensor, family) == UNCHANGED


def test_a_pending_scale_multiplies_the_mlp_before() -> None:
    fold = fold_path(path_with(2, 0.5, 0), "pending")
    assert fold.embedding == 2.0
    assert [hop.mlp for hop in fold.hops] == [0.5, 0.0, 1.0]
    assert {hop.attention for hop in fold.hops} == {hop.norms for hop in fold.hops} == {1.0}
    assert fold.change_in_hop(0, "mlp.down_proj.weight", LLAMA) == Change(factor=0.5)
    assert fold.change_in_hop(0, "mlp.up_proj.weight", LLAMA) == UNCHANGED
    # 0.5 (1 + w) is 1 + (0.5 w - 0.5).
    assert fold.change_in_hop(0, "post_feedforward_layernorm.weight", GEMMA2) == Change(factor=0.5, shift=-0.5)
    assert fold.change_in_hop(0, "mlp.down_proj.weight", GEMMA2) == UNCHANGED


def test_a_stream_scale_divides_every_branch_from_there_on() -> None:
    fold = fold_path(path_with(2, 1, -0.25), "stream")
    assert [hop.attention for hop in fold.hops] == [hop.mlp for hop in fold.hops] == [0.5, 0.5, -2.0]
    assert [hop.norms for hop in fold.hops] == [1.0, 1.0, -1.0]
    assert (fold.embedding, fold.final_norm) == (1.0, -1.0)
    assert fold.change_in_hop(2, "input_layernorm.weight", LLAMA) == Change(factor=-1.0)
    assert fold.change_in_hop(2, "post_attention_layernorm.weight", LLAMA) == Change(factor=-1.0)
    assert fold.change_in_hop(2, "self_attn.q_norm.weight", LLAMA) == UNCHANGED
    assert fold.change_in_hop(2, "input_layernorm.weight", GEMMA) == Change(factor=-1.0, shift=-2.0)
    assert fold.change_in_hop(2, "post_attention_layernorm.weight", GEMMA2) == Change(factor=-2.0, shift=-3.0)
    assert fold.change_of_final_norm(LLAMA) == Change(factor=-1.0)


@given(scales=st.lists(st.floats(-3, 3).filter(lambda scale: abs(scale) > 0.1), min_size=1, max_size=6))
def test_a_folded_stream_is_the_stream_divided_by_its_products(scales: list[float]) -> None:
    """With branches that give back what their norm, which sees the sign alone, makes of the stream."""
    fold = fold_path(path_with(*scales), "stream")
    stream, folded = 0.7, 0.7
    for scale, hop in zip(scales, fold.hops, strict=True):
        stream *= scale
        stream += math.copysign(1.0, stream)
        folded += hop.mlp * hop.norms * math.copysign(1.0, folded)
        if abs(stream) < 1e-6:
            return
    assert folded * running_products(path_with(*scales))[-1] == pytest.approx(stream, rel=1e-9, abs=1e-9)


def test_a_first_scale_beside_pictures_becomes_a_scale_of_the_stream() -> None:
    fold = fold_path(path_with(-2, 0.5), "pending", sees=True)
    assert fold.embedding == 1.0
    assert [(hop.attention, hop.mlp, hop.norms) for hop in fold.hops] == [(-0.5, -0.25, -1.0), (-0.5, -0.5, -1.0)]
    assert fold.final_norm == -1.0


@pytest.mark.parametrize(
    ("scales", "target", "sees", "n_added", "reason"),
    [
        ((1, 0, 1), "stream", False, 0, r"path\[1\]: its scale 0 removes the whole"),
        ((0, 1), "pending", True, 0, r"path\[0\]: its scale 0 also removes the embedding of pictures"),
        ((1e-200, 1e-200), "stream", False, 0, r"path\[1\]: up to here the scales multiply to 0"),
        ((1e200, 1e200), "stream", False, 0, r"path\[1\]: up to here the scales multiply to inf"),
        ((1, 2, 1), "stream", True, 2, r"path\[1\]: .* after each of the first 2 hops"),
        ((2, 1, 1), "pending", True, 1, r"path\[0\]: .* after each of the first 1 hops"),
    ],
)
def test_what_no_weights_stand_for_is_refused(
    scales: tuple[float, ...], target: str, sees: bool, n_added: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        fold_path(path_with(*scales), target, sees=sees, n_added=n_added)  # type: ignore[arg-type]


def test_scales_behind_what_a_vision_encoder_adds_are_folded() -> None:
    fold = fold_path(path_with(1, 1, 4), "stream", sees=True, n_added=2)
    assert [hop.mlp for hop in fold.hops] == [1.0, 1.0, 0.25]
    assert fold_path(path_with(1, 3, 4), "pending", sees=True, n_added=2).hops[0].mlp == 3.0
