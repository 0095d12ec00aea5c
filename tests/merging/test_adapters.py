"""LoRA adapters: the tensors are those that peft's merge_and_unload makes, and what cannot be merged is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from evovlm.errors import BrokenCheckpoint, IncompatibleModels, ModelError, ModelNotFound, PickledWeights
from evovlm.evaluation.opening import load_reference
from evovlm.merging.checkpoint.adapters import Adapter
from evovlm.merging.checkpoint.computed import AdaptedPlace
from evovlm.merging.checkpoint.safetensors_file import tensor_places
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.recipes.model_ref import ModelRef
from tests.any_family import save_pair
from tests.hub_fixtures import OpenHub, open_hub
from tests.merging.adapters import adapted_by_peft, merged_by_peft, pico_adapter
from tests.pico import pico_llm, pico_vlm

__all__ = ["open_hub"]

ATTENTION = ["q_proj", "v_proj"]
# name: (base, settings of peft)
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "all linear layers": ("base", {}),
    "rank-stabilised, with patterns": (
        "base",
        {
            "use_rslora": True,
            "rank_pattern": {"q_proj": 8, "model.layers.0.mlp.up_proj": 2},
            "alpha_pattern": {r"layers.[0-1].self_attn.v_proj": 7},
        },
    ),
    "DoRA": ("base", {"use_dora": True}),
    "DoRA of two layers": ("base16", {"use_dora": True, "target_modules": ATTENTION}),
    "whole embedding and head": (
        "base",
        {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "factors of embedding and head": ("base", {"target_modules": [*ATTENTION, "embed_tokens", "lm_head"]}),
    "trained tokens": ("base", {"target_modules": ATTENTION, "trainable_token_indices": [7, 3, 11]}),
    "trained tokens by module": (
        "base",
        {"target_modules": ATTENTION, "trainable_token_indices": {"embed_tokens": [7, 3], "lm_head": [1]}},
    ),
    "trained biases": ("qwen2", {"target_modules": ATTENTION, "bias": "all"}),
    "biases of the factors": ("qwen2", {"target_modules": ATTENTION, "lora_bias": True}),
    "tied": ("tied", {}),
    "tied, trained tokens": ("tied", {"target_modules": ATTENTION, "trainable_token_indices": [7, 3, 11]}),
    "tied, whole embedding": ("tied", {"target_modules": ATTENTION, "modules_to_save": ["embed_tokens"]}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    pico_llm(folder / "base")
    pico_llm(folder / "base16", dtype=torch.bfloat16)
    pico_llm(folder / "qwen2", family="qwen2")
    pico_llm(folder / "tied", tie=True)
    return folder


@pytest.fixture(scope="module")
def plain(bases: Path) -> Path:
    """An adapter of `base`."""
    return pico_adapter(bases / "plain", bases / "base")


def opened(base: Path, adapter: Path) -> Checkpoint:
    return Checkpoint.open_model(ModelRef(text=f"{base}+{adapter}"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_tensors_equal_those_of_merge_and_unload(bases: Path, tmp_path: Path, name: str) -> None:
    base, settings = bases / ADAPTERS[name][0], ADAPTERS[name][1]
    adapter = pico_adapter(tmp_path / "adapter", base, **settings)
    found, wanted = opened(base, adapter), merged_by_peft(base, adapter)
    own = Checkpoint.open(base)
    assert found.layout.tied == wanted.config.tie_word_embeddings
    changed = 0
    for tensor in found.backbone_names():
        exact, ours = wanted.state_dict()[tensor], found.read(tensor)
        assert ours.dtype == own.read(tensor).dtype
        # Rounded once to the base's dtype: at most half a unit in the last place of bfloat16.
        near = 1e-6 if ours.dtype == torch.float32 else 2**-8 * exact.abs() + 1e-6
        assert ((ours.float() - exact).abs() <= near).all(), tensor
        changed += not torch.equal(ours, own.read(tensor))
    assert changed >= 4


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_change_of_one_of_two_tied_tensors_separates_them(bases: Path, tmp_path: Path, target: str) -> None:
    # merge_and_unload changes both, and warns of it; the model that was trained is the one that peft runs.
    adapter = pico_adapter(tmp_path / "adapter", bases / "tied", target_modules=[*ATTENTION, target])
    ref = ModelRef(text=f"{bases / 'tied'}+{adapter}")
    assert not Checkpoint.open_model(ref).layout.tied
    loaded, trained = load_reference(ref, device="cpu"), adapted_by_peft(bases / "tied", adapter)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        found, wanted = loaded.model(input_ids=ids).logits, trained(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_an_adapter_alone_names_its_base(bases: Path, plain: Path, tmp_path: Path) -> None:
    alone, both = Checkpoint.open_model(ModelRef(text=str(plain))), opened(bases / "base", plain)
    assert alone.folder == bases / "base"
    assert all(torch.equal(alone.read(name), both.read(name)) for name in both.backbone_names())
    # A relative path starts at the adapter's folder, wherever the command is run.
    copy = Path(shutil.copytree(plain, bases / "copy"))
    change_settings(copy, base_model_name_or_path="../base")
    assert Checkpoint.open_model(ModelRef(text=str(copy))).folder.resolve() == (bases / "base").resolve()


def test_adapters_of_a_vlm_are_found_by_older_and_newer_names(bases: Path, tmp_path: Path) -> None:
    vlm = pico_vlm(bases / "vlm", like=bases / "base")
    adapter = pico_adapter(tmp_path / "adapter", vlm, sees=True)
    found, wanted = opened(vlm, adapter), merged_by_peft(vlm, adapter, sees=True).state_dict()
    # The vision encoder has projections of these names too.
    changed = [name for name in found.other_names() if isinstance(found.places[name], AdaptedPlace)]
    assert any("vision_tower" in name for name in changed)
    for name in found.backbone_names():
        in_memory = found.layout.disk_name(name).replace("language_model.model", "model.language_model")
        merged = wanted[in_memory.replace("language_model.lm_head", "lm_head")]
        assert (found.read(name) - merged).abs().max() <= 1e-6, name
    for name in changed:
        assert (found.places[name].read() - wanted[f"model.{name}"]).abs().max() <= 1e-6, name
    # transformers before 4.52 had the language model in another module.
    weights = load_file(adapter / "adapter_model.safetensors")
    older = {
        name.replace("model.language_model.layers", "language_model.model.layers"): t for name, t in weights.items()
    }
    assert older.keys() != weights.keys()
    save_file(older, adapter / "adapter_model.safetensors")
    again = opened(vlm, adapter)
    assert all(torch.equal(again.read(name), found.read(name)) for name in found.backbone_names())


EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("qwen3_moe", EXPERTS),
        ("gpt_oss", EXPERTS[1:]),
        pytest.param("qwen3_moe", EXPERTS[:1], marks=pytest.mark.slow),
        pytest.param("gpt_oss", EXPERTS, marks=pytest.mark.slow),
        pytest.param("qwen3_vl_moe", EXPERTS, marks=pytest.mark.slow),
        pytest.param("mixtral", EXPERTS, marks=pytest.mark.slow),
    ],
)
def test_trained_experts_are_changed_as_by_peft(family: str, targets: list[str], tmp_path: Path) -> None:
    base, _ = save_pair(tmp_path, family)
    sees = family == "qwen3_vl_moe"
    settings: dict[str, Any] = {"target_parameters": targets, "rank_pattern": {"down_proj": 2}}
    adapter = pico_adapter(tmp_path / "adapter", base, sees=sees, target_modules=["q_proj"], **settings)
    loaded = load_reference(ModelRef(text=f"{base}+{adapter}"), device="cpu")
    wanted = dict(merged_by_peft(base, adapter, sees=sees).named_parameters())
    own = dict(load_reference(ModelRef(text=str(base)), device="cpu").model.named_parameters())
    changed = set()
    for name, tensor in loaded.model.named_parameters():
        assert (tensor - wanted[name]).abs().max() <= 1e-6, name
        changed |= {name} if not torch.equal(tensor, own[name]) else set()
    assert sum("experts." in name for name in changed) == 4 * len(targets)


def test_factors_of_experts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base, _ = save_pair(tmp_path, "qwen3_moe")
    adapter = pico_adapter(tmp_path / "adapter", base, target_modules=["q_proj"], target_parameters=EXPERTS[1:])
    change_settings(adapter, rank_pattern={"down_proj": 3})
    with pytest.raises(IncompatibleModels, match=r"do not fit the base's 4 experts"):
        Checkpoint.open_model(ModelRef(text=f"{base}+{adapter}"))


def test_layers_that_are_stored_transposed_are_changed_as_by_peft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40)).save_pretrained(tmp_path / "gpt2")
    modules = ["c_attn", "c_proj", "c_fc"]
    adapter = pico_adapter(tmp_path / "adapter", tmp_path / "gpt2", target_modules=modules, fan_in_fan_out=True)
    places = tensor_places(tmp_path / "gpt2" / "model.safetensors")
    read = Adapter.read(adapter, tensor_places(adapter / "adapter_model.safetensors"))
    found = read.apply_to(places, where="gpt2", embedding="transformer.wte.weight", tied_head="lm_head.weight")
    wanted = merged_by_peft(tmp_path / "gpt2", adapter).state_dict()
    changed = [name for name, place in found.items() if isinstance(place, AdaptedPlace)]
    # The projection back from the attention is square: only the adapter's settings say that it is transposed.
    assert len(changed) == 4
    for name in changed:
        assert (found[name].read() - wanted[name]).abs().max() <= 1e-6, name


@given(start=st.integers(0, 2000), size=st.integers(1, 3000))
def test_any_part_of_an_adapted_tensor_has_the_bytes_of_the_whole(adapted: AdaptedPlace, start: int, size: int) -> None:
    whole = bytes(adapted.read_bytes())
    part = bytearray(min(size, len(whole) - start))
    adapted.read_into(part, start=start)
    assert bytes(part) == whole[start : start + len(part)]


@pytest.fixture(scope="module", params=[{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def adapted(request: pytest.FixtureRequest, bases: Path) -> AdaptedPlace:
    name = "part-dora" if request.param else "part"
    adapter = pico_adapter(bases / name, bases / "base16", **request.param)
    place = opened(bases / "base16", adapter).place("model.layers.0.self_attn.q_proj.weight")
    assert isinstance(place, AdaptedPlace)
    return place


def test_tokens_that_the_training_added_come_with_the_adapters_tokenizer(bases: Path, tmp_path: Path) -> None:
    adapter = pico_adapter(tmp_path / "adapter", bases / "base", modules_to_save=["embed_tokens", "lm_head"])
    weights = load_file(adapter / "adapter_model.safetensors")
    for name in ("base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.ones(2, weights[name].shape[1])])
    save_file(weights, adapter / "adapter_model.safetensors")
    rows = len(weights["base_model.model.lm_head.weight"])
    tokenizer = json.loads((bases / "base" / "tokenizer.json").read_text())
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [{"id": rows - 2 + n, "content": f"<|{n}|>", **entry} for n in range(2)]
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    (adapter / "tokenizer_config.json").write_bytes((bases / "base" / "tokenizer_config.json").read_bytes())
    found = opened(bases / "base", adapter)
    assert found.shape("model.embed_tokens.weight")[0] == rows == found.config["vocab_size"]
    assert found.tokenizer_folder == adapter
    loaded = load_reference(ModelRef(text=f"{bases / 'base'}+{adapter}"), device="cpu")
    assert loaded.tokenizer("<|1|>", add_special_tokens=False).input_ids == [rows - 1]
    assert loaded.model.get_input_embeddings().num_embeddings == rows


def change_settings(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication is set"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"r": 0}, "r is '0'"),
        ({"r": 3}, r"lora_A has 4 rows, but adapter_config.json says r = 3"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"alpha_pattern": {"(a+)+": 3}}, "is not a pattern that evovlm matches"),
        ({"alpha_pattern": {"(": 3}}, "is not a pattern that evovlm matches"),
        ({"alpha_pattern": [3]}, "alpha_pattern should map names of modules"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    bases: Path, plain: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    change_settings(adapter, **changes)
    with pytest.raises(ModelError, match=message):
        opened(bases / "base", adapter)


@pytest.mark.parametrize("text", ["", None, "/home/someone/model", 7])
def test_an_adapter_without_a_base_says_how_to_name_it(plain: Path, tmp_path: Path, text: object) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    change_settings(adapter, base_model_name_or_path=text)
    with pytest.raises(BrokenCheckpoint, match=r"(?s)base_model_name_or_path is .*MODEL\+ADAPTER"):
        Checkpoint.open_model(ModelRef(text=str(adapter)))


def test_an_adapter_of_another_model_is_refused_with_the_tensor_that_differs(
    bases: Path, plain: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "other"))
    weights = load_file(other / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    save_file({**weights, name: weights[name][:-1].contiguous()}, other / "adapter_model.safetensors")
    with pytest.raises(IncompatibleModels, match=r"mlp.up_proj: its factors 4 x 32 and \d+ x 4 do not fit"):
        opened(bases / "base", other)
    deeper = pico_adapter(tmp_path / "deeper", pico_llm(tmp_path / "three", n_blocks=3))
    shallow = pico_llm(tmp_path / "two")
    with pytest.raises(IncompatibleModels, match=r"changes model.layers.2.*which its base model"):
        opened(shallow, deeper)


def test_only_safetensors_inside_the_folder_are_read(bases: Path, plain: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    weights = adapter / "adapter_model.safetensors"
    outside = weights.rename(tmp_path / "outside.safetensors")
    weights.symlink_to(outside)
    with pytest.raises(BrokenCheckpoint, match="link that leads out"):
        opened(bases / "base", adapter)
    weights.unlink()
    with pytest.raises(BrokenCheckpoint, match=r"adapter_model.safetensors, are missing"):
        opened(bases / "base", adapter)
    (adapter / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(PickledWeights, match=r"are a pickle \(adapter_model.bin\)"):
        opened(bases / "base", adapter)


def test_a_model_takes_one_adapter(bases: Path, plain: Path) -> None:
    with pytest.raises(ModelNotFound, match="a model takes one adapter"):
        Checkpoint.open_model(ModelRef(text=f"{bases / 'base'}+{plain}+{plain}"))


def test_a_folder_with_a_plus_sign_is_a_model(bases: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bases / "base", tmp_path / "a+b"))
    assert Checkpoint.open_model(ModelRef(text=str(folder))).folder == folder


def test_the_identity_names_both_parts(bases: Path, plain: Path) -> None:
    ref = ModelRef(text="base+./plain", origin=bases)
    assert ref.identity == f"{(bases / 'base').resolve()}+{plain.resolve()}"
    assert ModelRef(text=" org/model + org/adapter@v1 ").parts == (
        ModelRef(text="org/model"),
        ModelRef(text="org/adapter@v1"),
    )


def test_an_adapter_on_the_hub_is_opened_from_its_headers(open_hub: OpenHub, bases: Path, tmp_path: Path) -> None:
    big = pico_llm(tmp_path / "big", vocab_rows=20_000)
    adapter = pico_adapter(tmp_path / "adapter", big)
    change_settings(adapter, base_model_name_or_path="org/big", revision=None)
    hub = open_hub({"org/big": big, "org/adapter": adapter})
    headers = Checkpoint.open_headers(ModelRef(text="org/adapter"))
    assert not list(headers.folder.glob("*.safetensors"))
    assert headers.adapter is not None
    assert not list(headers.adapter.glob("*.safetensors"))
    assert max(sent for file, sent in hub.sent.items() if file.endswith(".safetensors")) <= 100_001
    with pytest.raises(ModelError, match="still on the hub"):
        headers.read("model.layers.0.self_attn.q_proj.weight")
    whole, local = Checkpoint.open_model(ModelRef(text="org/big+org/adapter")), opened(big, adapter)
    assert all(torch.equal(whole.read(name), local.read(name)) for name in local.backbone_names())


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": [*ATTENTION, "lm_head"]},
        {"target_modules": [*ATTENTION, "embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [3]},
    ],
    ids=["whole embedding", "head", "both", "tokens"],
)
def test_headers_say_whether_an_adapter_separates_tied_tensors(
    open_hub: OpenHub, bases: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    adapter = pico_adapter(tmp_path / "adapter", bases / "tied", **settings)
    open_hub({"org/tied": bases / "tied", "org/adapter": adapter})
    headers = Checkpoint.open_headers(ModelRef(text="org/tied+org/adapter"))
    assert headers.layout.tied == opened(bases / "tied", adapter).layout.tied
    assert headers.config.get("tie_word_embeddings") == headers.layout.tied


def test_an_adapter_on_the_hub_does_not_lead_to_a_folder_here(open_hub: OpenHub, bases: Path, plain: Path) -> None:
    open_hub({"org/adapter": plain})
    with pytest.raises(BrokenCheckpoint, match="which is not a model on the hub"):
        Checkpoint.open_model(ModelRef(text="org/adapter"))
    assert Checkpoint.open_model(ModelRef(text=f"{bases / 'base'}+org/adapter")).folder == bases / "base"


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "[[a]]", "(" * 300, "a{1,99999999999}", "\\", "(?P<x>a)(?P<x>b)", "x" * 600, "x" * 9_000_000, ".*" * 3],
)
def test_a_pattern_that_could_take_long_is_refused(bases: Path, plain: Path, tmp_path: Path, pattern: str) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    change_settings(adapter, rank_pattern={pattern: 4})
    with pytest.raises(BrokenCheckpoint, match="is not a pattern that evovlm matches"):
        opened(bases / "base", adapter)


def test_many_patterns_are_matched_quickly(bases: Path, plain: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(plain, tmp_path / "adapter"))
    change_settings(adapter, alpha_pattern={f"layers.{number}.*": 4 for number in range(100, 5000)})
    own = opened(bases / "base", adapter)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(own.read(name), opened(bases / "base", plain).read(name))
    change_settings(adapter, alpha_pattern={f"layers.{number}": 4 for number in range(5001)})
    with pytest.raises(BrokenCheckpoint, match="alpha_pattern should map names of modules, at most 5000,"):
        opened(bases / "base", adapter)
