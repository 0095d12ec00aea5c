"""open_clip models by folder, hub id or open_clip's own names: safetensors only, no remote code."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import open_clip
import open_clip.factory
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from evovlm.errors import BrokenCheckpoint, ConfigError, ModelError, ModelNotFound, PickledWeights, UnknownArchitecture
from evovlm.models.pictures.clip import load_clip
from tests.hub_fixtures import OpenHub, open_hub
from tests.pico_clip import CONFIG, PREPROCESS, pico_clip

__all__ = ["open_hub"]

RED, BLUE = Image.new("RGB", (48, 32), "red"), Image.new("RGB", (20, 64), "blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder, only read."""
    return pico_clip(tmp_path_factory.mktemp("clip") / "pico")


def by_hand(folder: Path, pixels: Tensor) -> Tensor:
    """Embed prepared pixels with open_clip's classes and the stored weights alone."""
    vision, text = open_clip.CLIPVisionCfg(**CONFIG["vision_cfg"]), open_clip.CLIPTextCfg(**CONFIG["text_cfg"])
    model = open_clip.CLIP(CONFIG["embed_dim"], vision, text).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    with torch.inference_mode():
        found: Tensor = model.encode_image(pixels)
    return found / found.norm(dim=-1, keepdim=True)


def test_embeddings_are_those_of_the_stored_weights_and_preprocessing(folder: Path) -> None:
    clip = load_clip(str(folder), device="cpu")
    mean, std = (torch.tensor(PREPROCESS[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = (torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 32, 32) - mean) / std
    torch.testing.assert_close(clip.embed_images([RED]), by_hand(folder, pixels[None]), atol=1e-5, rtol=0)


def test_embeddings_are_unit_vectors_in_any_batch(folder: Path) -> None:
    clip = load_clip(str(folder), device="cpu")
    rows = clip.embed_images([RED, BLUE] * 40)
    assert rows.shape == (80, 16)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(80))
    torch.testing.assert_close(rows[78:], clip.embed_images([RED, BLUE]), atol=1e-5, rtol=0)
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    texts = clip.embed_texts(["赤い絵", "青い絵", "長い" * 500])
    assert texts.shape == (3, 16)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    assert not torch.allclose(texts[0], texts[1], atol=1e-3)


def test_nothing_random_is_drawn_and_logging_stays_as_it_was(folder: Path) -> None:
    first, second = (load_clip(str(folder), device="cpu").embed_texts(["猫"]) for _ in range(2))
    assert torch.equal(first, second)
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture
def tiny_architecture(tmp_path: Path) -> Iterator[str]:
    """An architecture that open_clip knows by name."""
    path = tmp_path / "Tiny-8.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    yield "Tiny-8"
    open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
    del open_clip.factory._MODEL_CONFIGS["Tiny-8"]


def test_a_known_architecture_takes_a_file_of_weights(folder: Path, tiny_architecture: str) -> None:
    clip = load_clip(f"{tiny_architecture}:{folder / 'open_clip_model.safetensors'}", device="cpu")
    assert torch.equal(clip.embed_texts(["猫"]), load_clip(str(folder), device="cpu").embed_texts(["猫"]))


def test_a_model_of_the_hub_is_fetched_without_its_pickles(folder: Path, tmp_path: Path, open_hub: OpenHub) -> None:
    published = pico_clip(tmp_path / "published")
    (published / "open_clip_pytorch_model.bin").write_bytes(b"never read")
    hub = open_hub({"org/clip": published})
    for name in ("org/clip", "hf-hub:org/clip@main"):
        assert load_clip(name, device="cpu").embed_texts(["猫"]).shape == (1, 16)
    assert not any("bin" in name for name in hub.sent)
    hub.stop()


def test_open_clips_own_names_are_fetched_from_the_hub(folder: Path, open_hub: OpenHub) -> None:
    open_hub({"laion/CLIP-ViT-B-32-laion2B-s34B-b79K": folder})
    clip = load_clip("ViT-B-32:laion2b_s34b_b79k", device="cpu")
    assert torch.equal(clip.embed_texts(["猫"]), load_clip(str(folder), device="cpu").embed_texts(["猫"]))


def test_weights_that_the_hub_has_as_a_pickle_only_are_not_read(tmp_path: Path, open_hub: OpenHub) -> None:
    published = pico_clip(tmp_path / "published")
    pickled(published)
    hub = open_hub({"org/clip": published})
    with pytest.raises(BrokenCheckpoint, match="no safetensors weights"):
        load_clip("org/clip", device="cpu")
    assert not any("bin" in name for name in hub.sent)


def test_a_hub_that_has_no_such_model_is_reported(folder: Path, open_hub: OpenHub) -> None:
    open_hub({"org/clip": folder})
    with pytest.raises(ModelNotFound, match="org/other"):
        load_clip("org/other", device="cpu")


def no_config(folder: Path) -> None:
    (folder / "open_clip_config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()


def pickled(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")


def cut_off(folder: Path) -> None:
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def two_files(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())


def another_size(folder: Path) -> None:
    config = {"model_cfg": {**CONFIG, "embed_dim": 8}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def no_json(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("{")


def remote_code(folder: Path) -> None:
    text = {**CONFIG["text_cfg"], "hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"trust_remote_code": True}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**CONFIG, "text_cfg": text}}))


def hidden_remote_code(folder: Path) -> None:
    remote_code(folder)
    path = folder / "open_clip_config.json"
    path.write_text(path.read_text().replace("trust_remote", "trust\\u005fremote"))


def code_of_a_text_tower(folder: Path) -> None:
    """Name a text tower beside the model that brings code of its own."""
    tower = folder / "tower"
    tower.mkdir()
    auto_map = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (tower / "config.json").write_text(json.dumps({"model_type": "unheard_of", "auto_map": auto_map}))
    (tower / "code.py").write_text("raise SystemExit('a trap')")
    text = {"hf_model_name": str(tower), "hf_model_pretrained": False}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**CONFIG, "text_cfg": text}}))


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (no_config, BrokenCheckpoint),
        (no_weights, BrokenCheckpoint),
        (pickled, PickledWeights),
        (cut_off, BrokenCheckpoint),
        (two_files, BrokenCheckpoint),
        (another_size, BrokenCheckpoint),
        (no_json, BrokenCheckpoint),
        (remote_code, UnknownArchitecture),
        (hidden_remote_code, UnknownArchitecture),
        (code_of_a_text_tower, BrokenCheckpoint),
    ],
)
def test_a_folder_that_is_not_a_whole_model_is_reported(
    damage: object, error: type[ModelError], tmp_path: Path
) -> None:
    folder = pico_clip(tmp_path / "pico")
    assert callable(damage)
    damage(folder)
    with pytest.raises(error, match="pico"):
        load_clip(str(folder), device="cpu")


def test_safetensors_are_read_beside_a_pickle(tmp_path: Path) -> None:
    folder = pico_clip(tmp_path / "pico")
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"never read")
    assert load_clip(str(folder), device="cpu").embed_texts(["猫"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("name", "error", "hint"),
    [
        ("./nothing", ModelNotFound, "folder not found"),
        ("nothing", ModelNotFound, "folder not found"),
        ("ViT-B-33:openai", ModelNotFound, "did you mean 'ViT-B-32'"),
        ("ViT-B-32:laion2b_s34b_b79", ModelNotFound, "did you mean 'laion2b_s34b_b79k'"),
    ],
)
def test_a_name_of_nothing_is_reported(name: str, error: type[ModelError], hint: str) -> None:
    with pytest.raises(error, match=hint):
        load_clip(name, device="cpu")


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"x")
    with pytest.raises(PickledWeights, match=r"weights\.pt"):
        load_clip(f"ViT-B-32:{path}", device="cpu")


def test_a_device_that_is_not_there_is_reported(folder: Path) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        load_clip(str(folder), device="tpu")
