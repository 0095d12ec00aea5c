"""Packed products: the same results for every number of rows, only where they pay, and nothing of them stays."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from evovlm.assets import asset_path
from evovlm.models import answer_memory
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.products import packed_products
from evovlm.models.decoding.stock import Greedy, generate_stock
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt

pytestmark = pytest.mark.skipif(
    not torch._C._has_mkldnn or "AVX" not in torch.backends.cpu.get_cpu_capability(),
    reason="oneDNN packs nothing on this CPU",
)
HIDDEN = 512


def model(**settings: object) -> LoadedModel:
    """Return a random model whose matrices are just large enough."""
    given = {"hidden_size": HIDDEN, "intermediate_size": 640, "num_hidden_layers": 2, "vocab_size": 1320}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    config = MistralConfig(**given, **heads, eos_token_id=2, sliding_window=None, **settings)
    torch.manual_seed(0)
    folder = asset_path("zoo") / "base"
    made = MistralForCausalLM(config).eval()
    return LoadedModel(model=made, tokenizer=AutoTokenizer.from_pretrained(folder), processor=None, folder=Path("m"))


def prompts(n: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    return [Prompt(ids=torch.randint(5, 1320, (5 + number % 7,), generator=generator)) for number in range(n)]


def replaced(backbone: Backbone) -> list[str]:
    return [name for name, each in backbone.model.named_modules() if "forward" in each.__dict__]


def test_large_layers_compute_with_packed_weights_until_the_end() -> None:
    backbone = Backbone.of(model())
    layer = backbone.decoder.layers[0]
    states = torch.randn(1, 40, HIDDEN)
    own = layer.mlp(states)
    with torch.inference_mode(), packed_products(backbone):
        assert len(replaced(backbone)) == 2 * 5 + 1, "q, o, gate, up and down of each block, and the head"
        assert "forward" not in layer.self_attn.k_proj.__dict__, "too small"
        torch.testing.assert_close(layer.mlp(states), own)
    assert not replaced(backbone)
    assert torch.equal(layer.mlp(states), own)


def test_a_bias_is_added() -> None:
    loaded = model()
    loaded.model.model.layers[0].mlp.up_proj = wide = nn.Linear(HIDDEN, 640)
    states = torch.randn(3, HIDDEN)
    own = wide(states)
    with torch.inference_mode(), packed_products(Backbone.of(loaded)):
        torch.testing.assert_close(wide(states), own)


def test_a_candidate_is_answered_with_its_own_weights() -> None:
    loaded = model()
    backbone = Backbone.of(loaded)
    weight = backbone.decoder.layers[0].self_attn.q_proj.weight
    states = torch.randn(20, HIDDEN)
    with torch.inference_mode(), packed_products(backbone):
        before = backbone.decoder.layers[0].self_attn.q_proj(states)
    # As a merge writes: into the same memory, unnoticed by torch.
    weight.detach().numpy()[:] *= 2
    with torch.inference_mode(), packed_products(backbone):
        torch.testing.assert_close(backbone.decoder.layers[0].self_attn.q_proj(states), 2 * before)


def test_what_is_not_torchs_own_layer_on_a_cpu_in_float32_stays() -> None:
    class Own(nn.Linear):
        pass

    loaded = model()
    backbone = Backbone.of(loaded)
    loaded.model.model.layers[0].mlp.up_proj = Own(HIDDEN, 640, bias=False)
    hooked = loaded.model.model.layers[0].mlp.gate_proj
    own: Callable[..., torch.Tensor] = hooked.forward
    hooked.forward = own
    with packed_products(backbone):
        assert "forward" not in loaded.model.model.layers[0].mlp.up_proj.__dict__
        assert hooked.forward is own
    assert hooked.forward is own
    loaded.model.to(torch.bfloat16)
    del hooked.forward
    with packed_products(backbone):
        assert not replaced(backbone)


@pytest.mark.parametrize("total", [None, 8 * 4 * 2**18])
def test_nothing_is_packed_where_copies_would_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch, total: int | None
) -> None:
    monkeypatch.setattr(answer_memory, "memory_bytes", lambda: total)
    backbone = Backbone.of(model())
    with packed_products(backbone):
        assert not replaced(backbone)


def test_an_error_leaves_the_model_as_it_was() -> None:
    backbone = Backbone.of(model())
    with pytest.raises(KeyError), packed_products(backbone):
        raise KeyError
    assert not replaced(backbone)


def test_answers_are_those_of_generate_and_do_not_depend_on_their_neighbours() -> None:
    loaded, asked = model(), prompts(40)
    with torch.inference_mode():
        theirs = generate_stock(loaded, asked, decoding=Greedy(max_new_tokens=12), stop_ids=(2,))
    ours = generate_greedy(loaded, asked, max_new_tokens=12, stop_ids=(2,))
    assert ours == [list(row) for row in theirs]
    for number in (0, 7, 39):
        alone = generate_greedy(loaded, [asked[number]], max_new_tokens=12, stop_ids=(2,))
        assert alone == [ours[number]]


@pytest.mark.parametrize("shape", [(512, 512), (640, 512), (512, 1536), (4096, 1024)])
def test_a_row_has_the_same_bits_in_every_pass_of_at_least_sixteen_rows(shape: tuple[int, int]) -> None:
    loaded = model()
    backbone = Backbone.of(loaded)
    loaded.model.model.layers[0].mlp.up_proj = layer = nn.Linear(shape[1], shape[0], bias=False)
    states = torch.randn(600, shape[1])
    with torch.inference_mode(), packed_products(backbone):
        whole = layer(states)
        for n in (16, 17, 31, 64, 96, 255, 513):
            assert torch.equal(layer(states[:n]), whole[:n])
            assert torch.equal(layer(states[5 : 5 + n]), whole[5 : 5 + n])
