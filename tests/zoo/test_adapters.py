"""The embedded adapters: the nearest changes of low rank, in a form that peft loads."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evovlm.assets import asset_path
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.recipes.model_ref import ModelRef
from evovlm.zoo.adapters import RANK, extract_adapter
from evovlm.zoo.training import ADAPTER, FINE_TUNES
from tests.merging.adapters import merged_by_peft
from tests.pico import pico_llm

LAYER = "model.layers.0.mlp.up_proj.weight"


def test_a_change_of_low_rank_is_kept_as_a_whole(tmp_path: Path) -> None:
    base = pico_llm(tmp_path / "base")
    tuned = pico_llm(tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    torch.manual_seed(0)
    weights[LAYER] += torch.randn(len(weights[LAYER]), RANK) @ torch.randn(RANK, weights[LAYER].shape[1]) / 50
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    extract_adapter(tuned, tmp_path / "adapter", base=base, base_name=str(base))
    found = Checkpoint.open_model(ModelRef(text=str(tmp_path / "adapter")))
    for name in found.backbone_names():
        # The factors are stored in bfloat16.
        assert (found.read(name) - weights[name]).abs().max() <= (0.02 if name == LAYER else 1e-6), name
    assert not torch.equal(found.read(LAYER), Checkpoint.open(base).read(LAYER))


@pytest.mark.parametrize("name", FINE_TUNES)
def test_the_embedded_adapters_come_near_to_their_fine_tunes_as_peft_loads_them(name: str) -> None:
    base, adapter = asset_path("zoo/base"), asset_path(f"zoo/{ADAPTER}{name}")
    found = Checkpoint.open_model(ModelRef(text=f"zoo:{ADAPTER}{name}"))
    assert found.folder == base
    wanted = merged_by_peft(base, adapter).state_dict()
    tuned, before = Checkpoint.open(asset_path(f"zoo/{name}")), Checkpoint.open(base)
    for tensor in found.backbone_names():
        exact = wanted[tensor]
        assert ((found.read(tensor).float() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all()
        if tensor == LAYER:
            change = tuned.read(tensor).float() - before.read(tensor).float()
            kept = exact - before.read(tensor).float()
            assert (kept - change).norm() < 0.9 * change.norm()
