"""`dtype:` of a recipe: every float of the result has it, its config says so, and the model in memory is the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from evovlm.evaluation.resident import load_recipe_model
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import Dtype, ParameterMerge
from evovlm.recipes.writing import recipe_to_yaml
from tests.merging.recipes import make_recipe
from tests.pico import pico_llm, pico_vlm

IDS = torch.arange(5, 25)[None]
MERGEKIT = """models:
  - model: base
  - model: math
    parameters: {density: 0.53, weight: 0.4}
  - model: ja
    parameters: {density: 0.53, weight: 0.3}
merge_method: dare_ties
base_model: base
parameters: {int8_mask: true}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dtypes")
    base = pico_llm(folder / "base")
    pico_llm(folder / "math", like=base, seed=1)
    pico_llm(folder / "ja", like=base, seed=2)
    pico_vlm(folder / "vlm", like=base, seed=3)
    pico_llm(folder / "base16", like=base, drift=0.0, dtype=torch.bfloat16)
    return folder


def check(recipe: Recipe, out: Path, *, dtype: torch.dtype, sees: bool = False) -> dict[str, torch.Tensor]:
    """Write the result, compare it with the model in memory and with what `check` says; return its tensors."""
    found = preflight_recipe(recipe)
    assert not found.problems
    written = write_checkpoint(recipe, out)
    weights = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert found.result is not None
    assert found.result.size_bytes == written.size_bytes
    config = json.loads((out / "config.json").read_text())
    stated = [part["dtype"] for part in (config, *config.values()) if isinstance(part, dict) and "dtype" in part]
    assert set(stated) == {str(dtype).removeprefix("torch.")}
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    loaded = auto.from_pretrained(out, dtype=torch.float32).eval()
    memory = load_recipe_model(recipe, device="cpu").model
    for name, parameter in loaded.state_dict().items():
        assert torch.equal(memory.state_dict()[name], parameter), name
    with torch.inference_mode():
        assert torch.equal(memory(input_ids=IDS).logits, loaded(input_ids=IDS).logits)
    return weights


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("host", ["base", "base16"])
def test_a_merge_is_rounded_once_to_the_dtype(pair: Path, tmp_path: Path, host: str, dtype: Dtype) -> None:
    recipe = make_recipe(pair, {"math": (0.4, 0.5), "ja": (0.3, 0.5)}, host=host)
    asked: torch.dtype = getattr(torch, dtype)
    weights = check(replace(recipe, dtype=dtype), tmp_path / "out", dtype=asked)
    # In float32, the host only gives config and tokenizer.
    wide = write_checkpoint(replace(recipe, host=ModelRef(text="base", origin=pair)), tmp_path / "wide").folder
    for name, tensor in load_file(wide / "model.safetensors").items():
        assert torch.equal(weights[name], tensor.to(asked)), name


def test_the_hosts_dtype_changes_no_byte(pair: Path, tmp_path: Path) -> None:
    recipe = make_recipe(pair, {"math": (0.4, 0.5)}, host="base16")
    plain = write_checkpoint(recipe, tmp_path / "plain").folder
    same = write_checkpoint(replace(recipe, dtype="bfloat16"), tmp_path / "same").folder
    for name in ("model.safetensors", "config.json"):
        assert (plain / name).read_bytes() == (same / name).read_bytes()


def test_what_is_not_merged_is_rounded_too(pair: Path, tmp_path: Path) -> None:
    recipe = make_recipe(pair, {"vlm": (0.5, 1.0)}, host="vlm", vocabulary="host")
    weights = check(replace(recipe, dtype="bfloat16"), tmp_path / "out", dtype=torch.bfloat16, sees=True)
    own = load_file(pair / "vlm" / "model.safetensors")
    vision = [name for name in own if "vision_tower" in name]
    assert vision
    assert all(torch.equal(weights[name], own[name].to(torch.bfloat16)) for name in vision)


def test_a_path_has_the_dtype(pair: Path, tmp_path: Path) -> None:
    steps = (LayerStep(source="base", layer=0, scale=1.0), LayerStep(source="ja", layer=1, scale=1.0))
    refs = {name: ModelRef(text=name, origin=pair) for name in ("base", "ja")}
    path = LayerPath(steps=steps)
    recipe = LayerPathMerge(host=refs["base"], sources=refs, path=path, scale_target="pending", dtype="bfloat16")
    check_path_values(recipe, tmp_path)
    written = write_checkpoint(recipe, tmp_path / "out").folder
    weights = load_file(written / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((written / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).eval()
    with torch.inference_mode():
        found, wanted = load_recipe_model(recipe, device="cpu").model(input_ids=IDS).logits, loaded(IDS).logits
    assert torch.equal(found, wanted)


def check_path_values(recipe: LayerPathMerge, folder: Path) -> None:
    file = folder / "path.yaml"
    file.write_text(recipe_to_yaml(recipe))
    assert load_recipe(file).as_values() == recipe.as_values()
    assert recipe.recipe_id != replace(recipe, dtype=None).recipe_id


def read(folder: Path, text: str) -> ParameterMerge:
    file = folder / "recipe.yaml"
    file.write_text(text)
    recipe = load_recipe(file)
    assert isinstance(recipe, ParameterMerge)
    return recipe


@pytest.mark.parametrize(
    ("lines", "base", "asked"),
    [
        ("dtype: bfloat16", "base", "bfloat16"),
        ("dtype: bfloat16", "base16", None),
        ("dtype: float32", "base16", "float32"),
        ("dtype: float32\nout_dtype: bfloat16", "base", "bfloat16"),
        ("dtype: float32\nout_dtype: torch.float16", "base16", "float16"),
        ("", "base", None),
    ],
)
def test_mergekits_dtype_is_compared_with_the_tensors(pair: Path, lines: str, base: str, asked: str | None) -> None:
    text = MERGEKIT.replace("base\n", f"{base}\n") + lines
    recipe = read(pair, text)
    assert recipe.dtype == asked
    # config.json may say anything.
    config = pair / base / "config.json"
    before = config.read_text()
    config.write_text(
        before.replace('"float32"', '"bfloat16"') if base == "base" else before.replace("bfloat16", "float32")
    )
    try:
        assert read(pair, text).dtype == asked
    finally:
        config.write_text(before)


def test_a_recipe_with_a_dtype_is_written_and_read_back(pair: Path) -> None:
    recipe = make_recipe(pair, {"math": (0.4, 0.5)})
    text = recipe_to_yaml(replace(recipe, dtype="float16"))
    assert "dtype: float16" in text
    assert read(pair, text) == replace(recipe, dtype="float16")
    assert "dtype" not in recipe_to_yaml(recipe)
    assert replace(recipe, dtype="float16").recipe_id != recipe.recipe_id
