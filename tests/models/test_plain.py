"""Plain blocks give the bits of transformers' own forward pass, and are used only where they do."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GraniteConfig, Ministral3Config, PretrainedConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from evovlm.assets import asset_path
from evovlm.models.backbone import Backbone
from evovlm.models.decoding import greedy, trial
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.packed import packed_attention
from evovlm.models.decoding.plain import PlainBlocks
from evovlm.models.decoding.row_attention import rotate
from evovlm.models.decoding.trial import plain_blocks
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt
from tests.pico import pico_llm

LENGTHS = (3, 40, 17, 150, 25, 131, 9)
"""Of prompts; those above 128 tokens are read with torch's attention."""


def asked(loaded: LoadedModel, *, shared: int = 0) -> list[Prompt]:
    """Return prompts of random tokens, which all begin with the same `shared` ones."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, 250, (shared + length,), generator=generator) for length in LENGTHS]
    return [Prompt(ids=torch.cat([ids[0][:shared], each[shared:]])) for each in ids]


def logits_of(loaded: LoadedModel, prompts: Sequence[Prompt], *, times: int = 2) -> tuple[list[Tensor], list[Any]]:
    """Return the logits of all passes and all answers; the second time, tokens are guessed."""
    prompts = [replace(prompt, ids=prompt.ids.clone()) for prompt in prompts]
    generate_greedy(loaded, prompts, max_new_tokens=1, stop_ids=())
    found: list[Tensor] = []
    handle = Backbone.of(loaded).head.register_forward_hook(lambda _module, _given, out: found.append(out.clone()))
    answers = [generate_greedy(loaded, prompts, max_new_tokens=12, stop_ids=(7, 11)) for _ in range(times)]
    handle.remove()
    return found, answers


def is_used(loaded: LoadedModel) -> bool:
    backbone = Backbone.of(loaded)
    with packed_attention(backbone):
        return plain_blocks(backbone) is not None


def without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greedy, "plain_blocks", lambda _backbone: None)


def wide(folder: Path, *, family: str) -> LoadedModel:
    """Return a pico model with 64 features in its MLP.

    With 48, torch's SiLU rounds the last numbers of some passes in another way, whatever the rows before them.
    """
    loaded = load_model(pico_llm(folder, family=family, n_blocks=3), device="cpu")
    config = loaded.model.config
    config.intermediate_size = 64
    torch.manual_seed(0)
    return replace(loaded, model=AutoModelForCausalLM.from_config(config).eval())


@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma"])
def test_logits_have_the_bits_of_transformers_own_modules(
    tmp_path: Path, family: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = wide(tmp_path / "m", family=family)
    assert is_used(loaded)
    prompts = asked(loaded, shared=shared)
    ours, answers = logits_of(loaded, prompts)
    without_blocks(monkeypatch)
    own, wanted = logits_of(loaded, prompts)
    assert answers == wanted
    assert len(ours) == len(own)
    assert all(torch.equal(mine, each) for mine, each in zip(ours, own, strict=True))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "qwen3"])
def test_blocks_with_other_parts_are_left_to_transformers(tmp_path: Path, family: str) -> None:
    assert not is_used(load_model(pico_llm(tmp_path / "m", family=family), device="cpu"))


def test_a_sliding_window_is_left_to_transformers(tmp_path: Path) -> None:
    assert not is_used(load_model(pico_llm(tmp_path / "m", sliding_window=64), device="cpu"))


def of_config(like: LoadedModel, kind: type[PretrainedConfig], **settings: object) -> LoadedModel:
    """Return a random model of two small blocks with these settings, and with the tokenizer of another."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(like.tokenizer)}
    return replace(like, model=AutoModelForCausalLM.from_config(kind(**sizes, **heads, **settings)).eval())


@pytest.mark.parametrize(("multiplier", "expected"), [(1.0, True), (0.5, False)])
def test_blocks_that_scale_what_they_add_are_left_to_transformers(
    tmp_path: Path, multiplier: float, expected: bool
) -> None:
    like = load_model(pico_llm(tmp_path / "m"), device="cpu")
    scales = {"residual_multiplier": multiplier, "attention_multiplier": 8**-0.5}
    assert is_used(of_config(like, GraniteConfig, **scales)) == expected


@pytest.mark.parametrize(("begins", "expected"), [(256, False), (512, True)])
def test_queries_that_are_scaled_far_from_the_start_are_left_to_transformers(
    tmp_path: Path, begins: int, expected: bool
) -> None:
    like = load_model(pico_llm(tmp_path / "m"), device="cpu")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1}
    settings = {"head_dim": 8, "max_position_embeddings": 512, "sliding_window": None}
    scaled = {"rope_parameters": {**rope, "original_max_position_embeddings": begins}}
    assert is_used(of_config(like, Ministral3Config, **settings, **scaled)) == expected


def test_a_hook_is_not_passed_over(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    assert is_used(loaded)
    handle = Backbone.of(loaded).layers[1].mlp.register_forward_hook(lambda _module, _given, out: 2 * out)  # type: ignore[index]
    assert not is_used(loaded)
    handle.remove()
    assert is_used(loaded)


def test_sixteen_bits_are_left_to_transformers(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    loaded.model.to(torch.bfloat16)
    assert PlainBlocks.of(Backbone.of(loaded)) is None


def test_weights_that_are_not_finite_decide_nothing(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    weight = Backbone.of(loaded).layers[0].mlp.up_proj.weight  # type: ignore[index]
    own = weight.detach().clone()
    weight.data.fill_(torch.nan)
    assert not is_used(loaded)
    with pytest.raises(FloatingPointError):
        generate_greedy(loaded, asked(loaded), max_new_tokens=4, stop_ids=())
    weight.data.copy_(own)
    assert is_used(loaded)


def test_blocks_that_break_in_the_trial_are_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        raise ValueError("not these positions")

    loaded = load_model(pico_llm(tmp_path / "m"), device="cpu")
    monkeypatch.setattr(trial, "_plain", {})
    with monkeypatch.context() as patched:
        patched.setattr(PlainBlocks, "states", broken)
        assert not is_used(loaded)
    assert not is_used(loaded), "tried once"


def test_the_last_block_leaves_out_tokens_that_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(pico_llm(tmp_path / "m", n_blocks=2), device="cpu")
    prompts = asked(loaded)
    rows: dict[str, list[int]] = {"first": [], "last": []}
    first, last = Backbone.of(loaded).layers  # type: ignore[misc]
    assert is_used(loaded)
    for name, block in (("first", first), ("last", last)):
        monkeypatch.setattr(block.mlp.up_proj, "forward", _counting(block.mlp.up_proj, rows[name]), raising=False)
    generate_greedy(loaded, prompts, max_new_tokens=2, stop_ids=())
    assert sum(rows["first"]) > sum(LENGTHS)
    assert sum(rows["last"]) < sum(LENGTHS) // 4


def _counting(layer: nn.Linear, rows: list[int]) -> Callable[[Tensor], Tensor]:
    own = layer.forward

    def counted(states: Tensor) -> Tensor:
        if states.ndim == 2:
            rows.append(len(states))
        return own(states)

    return counted


def test_the_embedded_models_answer_texts_and_pictures_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(asset_path("zoo") / "vlm", device="cpu")
    token = loaded.model.config.image_token_id
    features = torch.randn(4, 192, generator=torch.Generator().manual_seed(1))
    prompts = [
        Prompt(ids=torch.tensor([1, token, token, token, token, 40 + n, 50]), features=lambda: features)
        for n in range(5)
    ]
    prompts += asked(loaded)
    assert is_used(loaded)
    ours, answers = logits_of(loaded, prompts)
    without_blocks(monkeypatch)
    own, wanted = logits_of(loaded, prompts)
    assert answers == wanted
    assert all(torch.equal(mine, each) for mine, each in zip(ours, own, strict=True))


def test_positions_rotate_queries_and_keys_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(5)
    queries, keys = torch.randn(50, 6, 32, generator=generator), torch.randn(50, 2, 32, generator=generator)
    angles = torch.rand(50, 16, generator=generator).repeat(1, 2) * 100
    cosines, sines = angles.cos(), angles.sin()
    wanted = apply_rotary_pos_emb(queries, keys, cosines, sines)
    rotate(queries.numpy(), keys.numpy(), cosines.numpy(), sines.numpy())
    assert torch.equal(queries, wanted[0])
    assert torch.equal(keys, wanted[1])
