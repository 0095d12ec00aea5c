"""A LLaVA-1.6 as a LLaVA: one view of each picture, the same weights, and what it cannot be made of."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

from evovlm.errors import BrokenCheckpoint, OutputExists
from evovlm.merging.checkpoint.single_view import write_single_view
from evovlm.recipes.model_ref import parse_model_ref
from tests.pico import pico_llm, pico_vlm


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-1.6 in several shards."""
    folder = tmp_path_factory.mktemp("models")
    return pico_vlm(folder / "tiled", family="llava_next", max_shard_size="40KB")


def single(tiled: Path, out: Path) -> Path:
    return write_single_view(parse_model_ref(str(tiled), relative_to=None), out).folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def test_every_tensor_but_the_newline_stays_as_it_is(tiled: Path, tmp_path: Path) -> None:
    before, after = tensors(tiled), tensors(single(tiled, tmp_path / "single"))
    assert set(before) - set(after) == {"image_newline"}
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    weight_map = json.loads((tmp_path / "single" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(weight_map) == set(after)


def test_transformers_loads_all_of_it_and_sees_one_view(tiled: Path, tmp_path: Path) -> None:
    folder = single(tiled, tmp_path / "single")
    model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "LlavaProcessor"
    picture = Image.effect_noise((90, 50), 64).convert("RGB")
    asked = processor(text="<image>\n?", images=picture, return_tensors="pt")
    n_tokens = int((asked["input_ids"] == model.config.image_token_id).sum())
    vision = model.config.vision_config
    assert n_tokens == (vision.image_size // vision.patch_size) ** 2 == model.config.image_seq_length
    # The view is the whole picture that the tiled model sees beside its tiles.
    features = model.get_image_features(asked["pixel_values"], return_dict=True).pooler_output[0]
    original = LlavaNextForConditionalGeneration.from_pretrained(tiled)
    tower = original.model.vision_tower(asked["pixel_values"], output_hidden_states=True)
    layer = tower.hidden_states[original.config.vision_feature_layer][:, 1:]
    torch.testing.assert_close(features, original.model.multi_modal_projector(layer)[0])


def test_it_is_written_whole_or_not_at_all(tiled: Path, tmp_path: Path) -> None:
    for model, words in (
        (
            pico_llm(tmp_path / "llm"),
            "'mistral', and --single-view needs one of the type llava_next",
        ),
        (pico_vlm(tmp_path / "vlm"), "of the type 'llava'"),
    ):
        with pytest.raises(BrokenCheckpoint, match=words):
            single(model, tmp_path / "out")
    with pytest.raises(OutputExists):
        single(tiled, tmp_path / "llm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm", "vlm"]
