"""Models with adapters as hosts and in paths: the model in memory computes what the written checkpoint does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from evovlm.evaluation.resident import load_recipe_model
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from tests.merging.adapters import pico_adapter
from tests.merging.recipes import make_recipe
from tests.pico import pico_llm, pico_vlm

IDS = torch.arange(5, 25)[None]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    base = pico_llm(folder / "base", dtype=torch.bfloat16)
    pico_llm(folder / "math", like=base, seed=1, dtype=torch.bfloat16)
    vlm = pico_vlm(folder / "vlm", like=base, seed=2, dtype=torch.bfloat16)
    tied = pico_llm(folder / "tied", tie=True, dtype=torch.bfloat16)
    pico_adapter(folder / "lora", base)
    pico_adapter(folder / "lora-vlm", vlm, sees=True)
    pico_adapter(folder / "lora-head", tied, target_modules=["q_proj", "lm_head"])
    return folder


def check_same(recipe: Recipe, out: Path, *, sees: bool = False) -> None:
    memory = load_recipe_model(recipe, device="cpu").model
    folder = write_checkpoint(recipe, out).folder
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    loaded = auto.from_pretrained(folder, dtype=torch.float32).eval()
    for name, parameter in loaded.state_dict().items():
        if not name.startswith("model.layers."):
            # In memory, the blocks of a path are those of its models.
            assert torch.equal(memory.state_dict()[name], parameter), name
    with torch.inference_mode():
        assert torch.equal(memory(input_ids=IDS).logits, loaded(input_ids=IDS).logits)


def test_a_language_model_with_an_adapter_is_a_host(models: Path, tmp_path: Path) -> None:
    check_same(make_recipe(models, {"math": (0.5, 0.7), "lora": (0.5, 1.0)}, host="base+lora"), tmp_path / "out")


def test_a_vlm_with_an_adapter_of_its_vision_encoder_is_a_host(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"math": (0.5, 0.7)}, host="vlm+lora-vlm", vocabulary="host")
    check_same(recipe, tmp_path / "out", sees=True)


def test_a_host_whose_adapter_separates_its_head_keeps_it_separate(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"lora-head": (1.0, 1.0)}, base="tied", host="tied+lora-head")
    check_same(recipe, tmp_path / "out")


def test_a_path_leads_through_models_with_adapters(models: Path, tmp_path: Path) -> None:
    refs = {name: ModelRef(text=name, origin=models) for name in ("base+lora", "math")}
    sources = {"lora": refs["base+lora"], "math": refs["math"]}
    steps = [LayerStep(source=name, layer=layer, scale=1.0) for name, layer in (("lora", 0), ("math", 0), ("lora", 1))]
    path = LayerPath(steps=tuple(steps))
    recipe = LayerPathMerge(host=refs["base+lora"], sources=sources, path=path, scale_target="pending")
    check_same(recipe, tmp_path / "out")
