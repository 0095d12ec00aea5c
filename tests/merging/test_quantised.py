"""Quantised checkpoints: the floats that are read are those of transformers, other kinds are refused by their names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, Ministral3Config
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from evovlm.errors import BrokenCheckpoint
from evovlm.evaluation.opening import load_reference
from evovlm.evaluation.resident import load_merged
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.checkpoint.quantised import plain_weights
from evovlm.merging.checkpoint.safetensors_file import tensor_places
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.model_ref import ModelRef
from tests.merging.recipes import make_recipe
from tests.pico import pico_llm, pico_tokenizer, pico_vlm

IDS = torch.arange(5, 25)[None]


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def fp8_model(folder: Path, *, block: tuple[int, int] | None, scale_dtype: torch.dtype = torch.float32) -> Path:
    """Save a pico LLM whose projections are FP8: with a scale for each block, or (as Ministral 3) for each tensor."""
    pico_llm(folder, dtype=torch.bfloat16)
    return to_fp8(folder, block=block, scale_dtype=scale_dtype)


def to_fp8(folder: Path, *, block: tuple[int, int] | None, scale_dtype: torch.dtype) -> Path:
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if "_proj.weight" in name]:
        weight = weights[name].float()
        rows, columns = block or weight.shape
        cells = weight.reshape(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)
        scales = (cells.abs().amax((1, 3)) / 448).to(scale_dtype)
        quantised = (cells / scales.float()[:, None, :, None]).clamp(-448, 448).reshape(weight.shape)
        weights[name] = quantised.to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scales if block else scales.reshape(())
        if block is None:
            weights[name.replace("weight", "activation_scale")] = torch.tensor(0.5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    static = {"activation_scheme": "static", "weight_block_size": None}
    blocks = {"activation_scheme": "dynamic", "weight_block_size": list(block or ())}
    change_config(folder, quantization_config={"quant_method": "fp8", **(blocks if block else static)})
    return folder


def by_transformers(stored: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    converter = Fp8Dequantize(None)
    return converter._dequantize_one(stored[name], stored[f"{name}_scale_inv"], output_dtype=torch.bfloat16)


@pytest.mark.parametrize("block", [(8, 16), (16, 8), None], ids=str)
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fp8_weights_are_read_as_transformers_reads_them(
    tmp_path: Path, block: tuple[int, int] | None, scale_dtype: torch.dtype
) -> None:
    folder = fp8_model(tmp_path / "fp8", block=block, scale_dtype=scale_dtype)
    stored, found = load_file(folder / "model.safetensors"), Checkpoint.open(folder)
    assert "quantization_config" not in found.config
    assert not [name for name in found.places if "scale" in name]
    for name in found.backbone_names():
        wanted = by_transformers(stored, name) if f"{name}_scale_inv" in stored else stored[name]
        assert torch.equal(found.read(name).view(torch.int16), wanted.view(torch.int16)), name
    if block:
        # The whole way through transformers, which reads FP8 as bfloat16 on a CPU.
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
        assert all(torch.equal(found.read(name), loaded[name]) for name in found.backbone_names())


def test_ministral_3_is_read_and_scored_as_transformers_reads_it(tmp_path: Path) -> None:
    tokenizer = pico_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    config = Ministral3Config(**sizes, num_attention_heads=4, num_key_value_heads=2, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    to_fp8(tmp_path, block=None, scale_dtype=torch.bfloat16)
    found = Checkpoint.open(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(torch.equal(found.read(name), loaded.state_dict()[name]) for name in found.backbone_names())
    with torch.inference_mode():
        ours = load_reference(ModelRef(text=str(tmp_path)), device="cpu").model(IDS).logits
        assert torch.equal(ours, loaded.float().eval()(IDS).logits)


@pytest.mark.parametrize("scales", ["uint8", "e8m0"])
def test_scales_that_are_powers_of_two_are_read(tmp_path: Path, scales: str) -> None:
    folder = tmp_path / "mxfp8"
    folder.mkdir()
    exponents = torch.randint(110, 140, (16, 2), dtype=torch.uint8)
    stored = {
        "a.weight": torch.randn(16, 64).to(torch.float8_e5m2),
        "a.weight_scale_inv": exponents if scales == "uint8" else exponents.view(torch.float8_e8m0fnu),
    }
    save_file(stored, folder / "model.safetensors")
    config = {"quantization_config": {"quant_method": "fp8"}, "dtype": "bfloat16"}
    found = plain_weights(folder, config, tensor_places(folder / "model.safetensors"))
    wanted = by_transformers({**stored, "a.weight_scale_inv": exponents}, "a.weight")
    assert torch.equal(found.places["a.weight"].read(), wanted)


def test_blocks_that_reach_beyond_the_tensor_are_read(tmp_path: Path) -> None:
    weight = torch.randn(20, 40).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 3) + 0.5
    save_file({"a.weight": weight, "a.weight_scale_inv": scales}, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}, "dtype": "float32"}
    found = plain_weights(tmp_path, config, tensor_places(tmp_path / "model.safetensors")).places["a.weight"].read()
    wide = scales.repeat_interleave(16, 0).repeat_interleave(16, 1)[:20, :40]
    assert torch.equal(found, weight.float() * wide)


def test_every_number_of_fp8_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        stored = {"a.weight": torch.arange(256, dtype=torch.uint8).reshape(2, 128).view(dtype)}
        save_file({**stored, "a.weight_scale_inv": torch.ones(1, 1)}, tmp_path / "model.safetensors")
        config = {"quantization_config": {"quant_method": "fp8"}, "dtype": "float32"}
        found = plain_weights(tmp_path, config, tensor_places(tmp_path / "model.safetensors")).places["a.weight"].read()
        assert torch.equal(found.nan_to_num(7), stored["a.weight"].float().nan_to_num(7))


def test_mxfp4_experts_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stored: dict[str, torch.Tensor] = {}
    for name, rows, groups in (("gate_up_proj", 48, 2), ("down_proj", 33, 3)):
        exponents = torch.randint(0, 255, (4, rows, groups), dtype=torch.uint8)
        stored[f"experts.{name}_blocks"] = torch.randint(0, 256, (4, rows, groups, 16), dtype=torch.uint8)
        stored[f"experts.{name}_scales"] = exponents
    stored["experts.down_proj_bias"] = torch.randn(4, 33, dtype=torch.bfloat16)
    save_file(stored, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []}, "dtype": "bfloat16"}
    found = plain_weights(tmp_path, config, tensor_places(tmp_path / "model.safetensors"))
    assert sorted(found.places) == ["experts.down_proj", "experts.down_proj_bias", "experts.gate_up_proj"]
    for name in ("gate_up_proj", "down_proj"):
        wanted = convert_moe_packed_tensors(stored[f"experts.{name}_blocks"], stored[f"experts.{name}_scales"])
        place = found.places[f"experts.{name}"]
        assert place.shape == tuple(wanted.shape)
        assert torch.equal(place.read().view(torch.int16), wanted.view(torch.int16))
        # Chunks that begin and end inside of an expert.
        whole = bytes(place.read_bytes())
        for start, size in ((2, 7), (3000, 5000), (len(whole) - 9, 9), (0, len(whole))):
            part = bytearray(size)
            place.read_into(part, start=start)
            assert bytes(part) == whole[start : start + size]


def test_gpt_oss_is_read_and_scored_as_transformers_reads_it(tmp_path: Path) -> None:
    tokenizer = pico_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = GptOssConfig(**sizes, **heads, num_local_experts=4, num_experts_per_tok=2, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    GptOssForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = weights.pop(name).shape
        groups = (experts, rows, columns // 32)
        weights[f"{name}_blocks"] = torch.randint(0, 256, (*groups, 16), dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.randint(118, 124, groups, dtype=torch.uint8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change_config(tmp_path, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": []})
    found = Checkpoint.open(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    stored = loaded.state_dict()
    assert sorted(name for name in found.backbone_names() if "experts" in name)
    assert all(torch.equal(found.read(name), stored[name]) for name in found.backbone_names())
    with torch.inference_mode():
        ours = load_reference(ModelRef(text=str(tmp_path)), device="cpu").model(IDS).logits
        assert torch.equal(ours, loaded.float().eval()(IDS).logits)


def test_a_quantised_parent_merges_and_scores_as_its_floats_would(tmp_path: Path) -> None:
    models = tmp_path
    fp8_model(models / "fp8", block=(16, 16))
    pico_llm(models / "math", dtype=torch.bfloat16, seed=1)
    recipe = make_recipe(models, {"fp8": (0.6, 1.0), "math": (0.4, 1.0)}, method="linear", base=None, host="fp8")
    written = write_checkpoint(recipe, tmp_path / "out")
    assert any("its FP8 weights are read as BF16" in warning for warning in written.warnings)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = loaded(IDS).logits
        assert torch.equal(load_merged(recipe, device="cpu").model(IDS).logits, wanted)
        # The source alone, as it is scored.
        alone = load_reference(ModelRef(text=str(models / "fp8")), device="cpu").model(IDS).logits
        plain = AutoModelForCausalLM.from_pretrained(models / "fp8", dtype=torch.bfloat16).float().eval()
        assert torch.allclose(alone, plain(IDS).logits, atol=1e-5)


@pytest.mark.parametrize("inside", [None, "text_config"])
def test_a_quantisation_that_only_the_config_has_is_dropped(tmp_path: Path, inside: str | None) -> None:
    leftover = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    base = pico_llm(tmp_path / "base", dtype=torch.bfloat16)
    if inside is None:
        host = pico_llm(tmp_path / "host", like=base, seed=1, dtype=torch.bfloat16)
        change_config(host, quantization_config=leftover)
    else:
        host = pico_vlm(tmp_path / "host", like=base, seed=1, dtype=torch.bfloat16)
        text = json.loads((host / "config.json").read_text())["text_config"]
        change_config(host, text_config={**text, "quantization_config": leftover})
    recipe = make_recipe(
        tmp_path, {"host": (0.5, 1.0)}, base="base", host="host", vocabulary="host" if inside else None
    )
    checked = preflight_recipe(recipe)
    assert not checked.problems
    note = "its config.json speaks of a quantisation (bitsandbytes), but its weights are plain floats: it is left out"
    assert any(note in warning for warning in checked.warnings)
    written = write_checkpoint(recipe, tmp_path / "out")
    assert any(note in warning for warning in written.warnings)
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    found = load_merged(recipe, device="cpu")
    ids = torch.arange(5, 25)[None]
    reloaded = load_reference(ModelRef(text=str(tmp_path / "out")), device="cpu")
    with torch.inference_mode():
        assert torch.equal(found.model(input_ids=ids).logits, reloaded.model(input_ids=ids).logits)
    assert load_reference(ModelRef(text=str(host)), device="cpu").model is not None


def with_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None) -> Path:
    pico_llm(folder)
    weights = load_file(folder / "model.safetensors")
    removed = "model.layers.0.self_attn.q_proj.weight"
    save_file({**{name: t for name, t in weights.items() if name != removed}, **tensors}, folder / "model.safetensors")
    if settings is not None:
        change_config(folder, quantization_config=settings)
    return folder


MODULE = "model.layers.0.self_attn.q_proj"
PACKED = torch.zeros(32, 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("tensors", "settings", "named"),
    [
        (
            {f"{MODULE}.weight": torch.zeros(512, 1, dtype=torch.uint8)},
            {"quant_method": "bitsandbytes"},
            "bitsandbytes",
        ),
        ({f"{MODULE}.weight": torch.zeros(512, 1, dtype=torch.uint8)}, {"load_in_4bit": True}, "bitsandbytes"),
        ({f"{MODULE}.weight": PACKED.byte(), f"{MODULE}.weight.quant_map": torch.zeros(16)}, None, "bitsandbytes"),
        ({f"{MODULE}.qweight": PACKED}, {"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({f"{MODULE}.qweight": PACKED}, {"quant_method": "awq", "bits": 4}, "AWQ"),
        ({f"{MODULE}.qweight": PACKED}, None, "GPTQ or AWQ"),
        ({f"{MODULE}.weight_packed": PACKED}, {"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({f"{MODULE}.weight": PACKED}, {"quant_method": "something-new"}, "something-new"),
    ],
)
def test_other_quantisations_are_refused_first_and_by_name(
    tmp_path: Path, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None, named: str
) -> None:
    with_tensors(tmp_path / "quantised", tensors, settings)
    pico_llm(tmp_path / "base")
    found = preflight_recipe(make_recipe(tmp_path, {"quantised": (1.0, 1.0)}, base="base", host="base"))
    (problem,) = found.problems
    assert f"its weights are quantised with {named}" in str(problem)
    assert "Name the checkpoint that it was quantised from" in str(problem)


def test_fp8_weights_without_scales_are_refused(tmp_path: Path) -> None:
    folder = fp8_model(tmp_path / "fp8", block=(16, 16))
    weights = load_file(folder / "model.safetensors")
    del weights[f"{MODULE}.weight_scale_inv"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match=r"its scale .*q_proj.weight_scale_inv is missing"):
        Checkpoint.open(folder)
    weights[f"{MODULE}.weight_scale_inv"] = torch.ones(3, 2)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match="is a form of FP8 that evovlm does not read"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("step", [10**18, 10**9, -1, 0])
def test_a_stated_size_of_blocks_costs_nothing(tmp_path: Path, step: int) -> None:
    folder = fp8_model(tmp_path / "fp8", block=None)
    wanted = Checkpoint.open(folder).read("model.layers.0.self_attn.q_proj.weight")
    change_config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [step, step]})
    assert torch.equal(Checkpoint.open(folder).read("model.layers.0.self_attn.q_proj.weight"), wanted)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_scales_that_are_not_floats_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = fp8_model(tmp_path / "fp8", block=(8, 16))
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight_scale_inv"
    weights[name] = weights[name].to(dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match="is a form of FP8 that evovlm does not read"):
        Checkpoint.open(folder)
