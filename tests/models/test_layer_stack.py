"""Paths through layers as running models: against the source, against the slow twin, and cached against not."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from evovlm.errors import ConfigError, IncompatibleModels
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.stock import Greedy, generate_stock
from evovlm.models.decoding.trial import packs_exactly
from evovlm.models.layer_stack import LayerStack
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.recipes.layer_path import ScaleTarget
from tests.marks import quick_and_slow
from tests.models.pictures import drawn
from tests.models.test_generation import prompts_for, stock_greedy
from tests.models.test_picture_answers import asked, generated_alone, with_loud_pictures
from tests.paths import INTERLEAVED, LLM_FAMILIES, Steps, identity, path_of, two_folders
from tests.pico import pico_llm, pico_vlm
from tests.pico_families import PICTURE_FAMILIES, VLM_PICOS
from tests.reference.layer_path import path_logits

TARGETS: tuple[ScaleTarget, ...] = ("pending", "stream")
THROUGH_A_VLM: Steps = (("vlm", 0, 1.0), ("b", 1, 0.9), ("vlm", 1, 1.2), ("b", 2, -1.0), ("vlm", 3, 0.8))
TOKENS = [1, 40, 300, 77, 40, 150, 9, 320, 61, 62, 63]


Two = Callable[[str], tuple[LoadedModel, LoadedModel]]


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """Return two models of a family, saved once and loaded anew for each test."""

    @functools.cache
    def saved(family: str) -> tuple[Path, Path]:
        return two_folders(tmp_path_factory.mktemp("pairs"), family)

    def loaded(family: str) -> tuple[LoadedModel, LoadedModel]:
        first, second = saved(family)
        return load_model(first, device="cpu"), load_model(second, device="cpu")

    return loaded


def weights_of(loaded: LoadedModel) -> Mapping[str, np.ndarray]:
    """Return a text LLM's weights in float64."""
    return {name: tensor.double().numpy() for name, tensor in loaded.model.state_dict().items()}


@torch.inference_mode()
def logits_of(loaded: LoadedModel, tokens: list[int] = TOKENS) -> torch.Tensor:
    """Return the logits of a text, (tokens, rows), without a cache."""
    return loaded.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
def test_the_identity_path_has_the_sources_logits_to_the_bit(two: Two, family: str, target: ScaleTarget) -> None:
    first, _ = two(family)
    wanted = logits_of(first)
    stack = LayerStack(first, {"a": first})
    stack.take(path_of(identity("a", 2)), target)
    assert torch.equal(logits_of(stack.loaded), wanted)


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
def test_another_models_blocks_in_order_are_that_model_but_for_the_hosts_ends(two: Two, family: str) -> None:
    first, second = two(family)
    stack = LayerStack(first, {"b": second})
    stack.take(path_of(identity("b", 3)), "stream")
    found = logits_of(stack.loaded)
    with torch.no_grad():
        second.model.model.embed_tokens.weight.copy_(first.model.model.embed_tokens.weight)
        second.model.model.norm.weight.copy_(first.model.model.norm.weight)
        second.model.lm_head.weight.copy_(first.model.lm_head.weight)
    assert torch.equal(found, logits_of(second))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
def test_a_path_computes_what_the_slow_twin_does(two: Two, family: str, target: ScaleTarget) -> None:
    first, second = two(family)
    weights = {"a": weights_of(first), "b": weights_of(second)}
    config = first.model.config
    stack = LayerStack(first, {"a": first, "b": second})
    stack.take(path_of(INTERLEAVED), target)
    windowed = "sliding_attention" if family == "mistral" else "full_attention"
    kinds = getattr(config, "layer_types", None) or [windowed] * len(INTERLEAVED)
    wanted = path_logits(weights["a"], weights, config, INTERLEAVED, target, kinds=kinds, tokens=TOKENS)
    np.testing.assert_allclose(logits_of(stack.loaded).numpy(), wanted, atol=2e-4, rtol=2e-4)


def test_the_two_targets_differ_where_a_scale_does(two: Two) -> None:
    first, _ = two("llama")
    stack = LayerStack(first, {"a": first})
    found = []
    for target in TARGETS:
        stack.take(path_of((("a", 0, 1.0), ("a", 1, 0.5))), target)
        found.append(logits_of(stack.loaded))
    assert (found[0] - found[1]).abs().max() > 0.05


@pytest.mark.parametrize("target", TARGETS)
def test_a_scale_of_zero_forgets_what_it_multiplies(two: Two, target: ScaleTarget) -> None:
    first, _ = two("llama")
    stack = LayerStack(first, {"a": first})
    stack.take(path_of((("a", 1, 1.0), ("a", 0, 0.0))), target)
    found = logits_of(stack.loaded)
    assert torch.isfinite(found).all()
    if target == "stream":
        # Nothing of the text is left but for the last block's biases, and it has none.
        assert torch.equal(found, found[:1].expand_as(found))


def test_blocks_keep_the_attention_that_they_have_at_home(two: Two) -> None:
    first, second = two("gemma3_text")
    own = list(second.model.config.layer_types)
    assert set(own) == {"sliding_attention", "full_attention"}
    stack = LayerStack(first, {"b": second})
    stack.take(path_of((("b", 1, 1.0), ("b", 1, 1.0), ("b", 0, 1.0))), "stream")
    assert first.model.config.layer_types == [own[1], own[1], own[0]]
    assert [hop.self_attn.is_sliding for hop in Backbone.of(first).decoder.layers] == [
        kind == "sliding_attention" for kind in first.model.config.layer_types
    ]


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_cached_is_what_is_computed_anew(two: Two, family: str, target: ScaleTarget) -> None:
    first, second = two(family)
    stack = LayerStack(first, {"a": first, "b": second})
    stack.take(path_of(INTERLEAVED), target)
    model = stack.loaded.model
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([TOKENS[:4]]), use_cache=True)
        steps = [out.logits[0]]
        assert len(out.past_key_values.layers) == len(INTERLEAVED)
        for token in TOKENS[4:]:
            out = model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            steps.append(out.logits[0])
    torch.testing.assert_close(torch.cat(steps), logits_of(stack.loaded), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
def test_greedy_answers_are_those_of_generate(two: Two, family: str) -> None:
    first, second = two(family)
    stack = LayerStack(first, {"a": first, "b": second})
    for target in TARGETS:
        stack.take(path_of(INTERLEAVED), target)
        assert packs_exactly(Backbone.of(stack.loaded))
        prompts = prompts_for(stack.loaded)
        expected = stock_greedy(stack.loaded, prompts, max_new_tokens=16, stop_ids={2})
        assert generate_greedy(stack.loaded, prompts, max_new_tokens=16, stop_ids={2}) == expected


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_beams_over_left_padded_prompts_are_those_over_each_alone(two: Two, family: str) -> None:
    first, second = two(family)
    stack = LayerStack(first, {"a": first, "b": second})
    stack.take(path_of(INTERLEAVED), "stream")
    prompts = prompts_for(stack.loaded)
    decoding = Greedy(max_new_tokens=8, beams=3)
    together = generate_stock(stack.loaded, prompts, decoding=decoding, stop_ids={2})
    alone = [generate_stock(stack.loaded, [prompt], decoding=decoding, stop_ids={2})[0] for prompt in prompts]
    assert together == alone
    assert together != generate_stock(stack.loaded, prompts, decoding=Greedy(max_new_tokens=8), stop_ids={2})


@pytest.fixture(scope="module", params=quick_and_slow(PICTURE_FAMILIES, quick=3))
def vlm_on_a_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A pico VLM of each family, on a path through itself and a language model."""
    family: str = request.param
    folder = tmp_path_factory.mktemp("paths")
    loaded = with_loud_pictures(load_model(pico_vlm(folder / "vlm", family=family, n_blocks=4), device="cpu"))
    text = VLM_PICOS[family].text
    like = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}.get(text, text)
    second = load_model(pico_llm(folder / "b", family=like, n_blocks=3, seed=3), device="cpu")
    stack = LayerStack(loaded, {"vlm": loaded, "b": second})
    stack.take(path_of(THROUGH_A_VLM), "pending")
    return stack.loaded


def test_a_vlm_answers_about_pictures_through_a_path(vlm_on_a_path: LoadedModel) -> None:
    questions = asked(drawn())
    prompts = [each for each in prepare_prompts(vlm_on_a_path, questions) if isinstance(each, Prompt)]
    expected = [generated_alone(vlm_on_a_path, question, max_new_tokens=12) for question in questions]
    assert generate_greedy(vlm_on_a_path, prompts, max_new_tokens=12, stop_ids={2}) == expected
    assert len({tuple(row) for row in expected}) > 2


def test_a_vlm_on_a_path_searches_beams_over_pictures(vlm_on_a_path: LoadedModel) -> None:
    questions = asked(drawn())[:3]
    prompts = [each for each in prepare_prompts(vlm_on_a_path, questions) if isinstance(each, Prompt)]
    expected = [generated_alone(vlm_on_a_path, each, max_new_tokens=6, num_beams=3) for each in questions]
    assert generate_stock(vlm_on_a_path, prompts, decoding=Greedy(max_new_tokens=6, beams=3), stop_ids={2}) == expected


def test_the_identity_path_of_a_vlm_answers_as_the_vlm(tmp_path: Path) -> None:
    loaded = with_loud_pictures(load_model(pico_vlm(tmp_path / "m", family="qwen3_vl", n_blocks=4), device="cpu"))
    questions = asked(drawn())
    expected = [generated_alone(loaded, question, max_new_tokens=8) for question in questions]
    LayerStack(loaded, {"vlm": loaded}).take(path_of(identity("vlm", 4)), "stream")
    assert [generated_alone(loaded, question, max_new_tokens=8) for question in questions] == expected


def test_a_path_too_short_for_what_the_vision_encoder_adds_is_refused(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="qwen3_vl", n_blocks=4), device="cpu")
    loaded.model.config.vision_config.deepstack_visual_indexes = [0, 1, 1]
    stack = LayerStack(loaded, {"vlm": loaded})
    with pytest.raises(ConfigError, match="2 hops, but the host's vision encoder adds to the stream after the first 3"):
        stack.take(path_of(identity("vlm", 2)), "stream")


def test_hops_share_the_weights_of_their_blocks(two: Two) -> None:
    first, second = two("llama")
    owned = {tensor.data_ptr() for model in (first, second) for tensor in model.model.parameters()}
    stack = LayerStack(first, {"a": first, "b": second})
    stack.take(path_of(INTERLEAVED), "pending")
    assert {tensor.data_ptr() for tensor in first.model.parameters()} <= owned


def test_a_path_follows_another_on_the_same_models(two: Two) -> None:
    first, second = two("qwen3")
    wanted = logits_of(first)
    stack = LayerStack(first, {"a": first, "b": second})
    stack.take(path_of(INTERLEAVED), "pending")
    stack.take(path_of(identity("a", 2)), "pending")
    assert torch.equal(logits_of(first), wanted)


def test_another_models_blocks_are_rounded_as_the_hosts_checkpoint_would(two: Two) -> None:
    first, second = two("llama")
    own = second.model.model.layers[0].mlp.up_proj.weight.clone()
    stack = LayerStack(first, {"b": second}, stored=torch.bfloat16)
    stack.take(path_of(identity("b", 3)), "stream")
    held = Backbone.of(first).decoder.layers[0].mlp.up_proj.weight
    assert torch.equal(held, own.bfloat16().float())
    assert torch.equal(second.model.model.layers[0].mlp.up_proj.weight, own)


def test_blocks_of_another_shape_are_refused_with_the_names(tmp_path: Path) -> None:
    first = load_model(pico_llm(tmp_path / "a", family="llama"), device="cpu")
    second = load_model(pico_llm(tmp_path / "b", family="qwen2"), device="cpu")
    with pytest.raises(
        IncompatibleModels,
        match=r"self_attn\.k_proj\.bias of block 0 is 16 in sources\.b .*/b'\) and is missing in the host .*/a'",
    ):
        LayerStack(first, {"a": first, "b": second})


def test_heads_of_another_size_are_refused_though_shapes_agree(two: Two) -> None:
    first, second = two("llama")
    second.model.config.num_attention_heads = 8
    with pytest.raises(IncompatibleModels, match=r"num_attention_heads is 8 in sources\.b"):
        LayerStack(first, {"a": first, "b": second})


@pytest.mark.parametrize(
    ("step", "reason"),
    [(("c", 0, 1.0), "'c' is not among the sources"), (("a", 2, 1.0), "'a' has 2 blocks and no block 2")],
)
def test_a_block_that_is_not_there_is_refused(two: Two, step: tuple[str, int, float], reason: str) -> None:
    first, _ = two("llama")
    stack = LayerStack(first, {"a": first})
    with pytest.raises(ConfigError, match=reason):
        stack.take(path_of((("a", 0, 1.0), step)), "stream")
    assert first.model.config.num_hidden_layers == 2
