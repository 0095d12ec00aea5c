"""Checkpoints as found on disk, and the names of their tensors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from evovlm.errors import BrokenCheckpoint, PickledWeights, UnknownArchitecture
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.tensor_names import unit_index
from evovlm.models.stored_views import find_parameters
from tests.merging.recipes import make_recipe, merge_all


def test_a_vlm_and_an_llm_have_the_same_backbone_names(models: Path) -> None:
    llm, vlm = Checkpoint.open(models / "base"), Checkpoint.open(models / "vlm")
    assert llm.backbone_names() == vlm.backbone_names()
    assert llm.backbone_names()[0] == "model.embed_tokens.weight"
    assert llm.backbone_names()[-2:] == ("model.norm.weight", "lm_head.weight")
    assert llm.layout.n_blocks == vlm.layout.n_blocks == 2
    assert llm.other_names() == ()
    assert len(vlm.other_names()) + len(vlm.backbone_names()) == len(vlm.places)


@pytest.mark.parametrize("name", ["base", "vlm", "tied", "tied-vlm", "math16"])
def test_tensors_and_memory_names_are_those_of_the_loaded_model(models: Path, name: str) -> None:
    checkpoint = Checkpoint.open(models / name)
    kind = LlavaForConditionalGeneration if checkpoint.layout.is_vlm else AutoModelForCausalLM
    names = {each: checkpoint.layout.disk_name(each) for each in checkpoint.backbone_names()}
    shapes = {each: checkpoint.shape(each) for each in names}
    parameters = find_parameters(kind.from_pretrained(models / name, dtype="auto"), names, shapes=shapes)
    for backbone_name, parameter in parameters.items():
        assert (
            checkpoint.place(backbone_name).dtype_code
            == {torch.float32: "F32", torch.bfloat16: "BF16"}[parameter.dtype]
        )
        assert checkpoint.shape(backbone_name) == parameter.shape
        assert torch.equal(checkpoint.read(backbone_name), parameter)
        disk_name = checkpoint.layout.disk_name(backbone_name)
        assert checkpoint.layout.backbone_name_from_disk(disk_name) == backbone_name


def test_both_namings_of_llava_on_disk_are_understood(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "vlm", tmp_path / "newer")
    weights = load_file(tmp_path / "newer" / "model.safetensors")
    renamed = {
        name.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head"): w
        for name, w in weights.items()
    }
    save_file(renamed, tmp_path / "newer" / "model.safetensors")
    newer, older = Checkpoint.open(tmp_path / "newer"), Checkpoint.open(models / "vlm")
    assert newer.backbone_names() == older.backbone_names()
    assert newer.layout.disk_name("model.norm.weight") == "model.language_model.norm.weight"
    assert older.layout.disk_name("model.norm.weight") == "language_model.model.norm.weight"


def test_old_rotary_frequencies_and_masks_are_not_weights(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "older")
    weights = load_file(tmp_path / "older" / "model.safetensors")
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8),
        "model.layers.0.attn.masked_bias": torch.tensor(-1e4),
    }
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(32), "model.layers.0.attn.bias_k": torch.ones(32)}
    save_file(weights | buffers | bias, tmp_path / "older" / "model.safetensors")
    older = Checkpoint.open(tmp_path / "older")
    assert set(older.other_names()) == buffers.keys()
    assert set(older.backbone_names()) == weights.keys() | bias.keys()


def test_units() -> None:
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.x",
        "model.layers.11.y.z",
        "model.norm.weight",
        "lm_head.weight",
        "model.wpe.weight",
    ]
    assert [unit_index(name, 12) for name in names] == [0, 1, 12, 13, 13, 0]


def test_pickled_weights_are_refused_with_a_way_out(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "base" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(PickledWeights, match=r"pytorch_model\.bin[\s\S]*evovlm convert"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
        (lambda folder: (folder / "config.json").unlink(), "config.json was not found"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a JSON object"),
        (lambda folder: cut(folder / "model.safetensors", 3), "not a safetensors file"),
        (lambda folder: cut(folder / "model.safetensors", 5000), r"cut off; fetch it again"),
        (lambda folder: drop(folder, "lm_head.weight"), "lm_head.weight is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named(models: Path, tmp_path: Path, damage: object, match: str) -> None:
    shutil.copytree(models / "base", tmp_path / "model")
    assert callable(damage)
    damage(tmp_path / "model")
    with pytest.raises(BrokenCheckpoint, match=match):
        Checkpoint.open(tmp_path / "model")


def cut(file: Path, size_bytes: int) -> None:
    file.write_bytes(file.read_bytes()[:size_bytes])


def drop(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")


def test_a_missing_shard_is_named(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math16", tmp_path / "model")
    shard = sorted((tmp_path / "model").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BrokenCheckpoint, match=shard.name):
        Checkpoint.open(tmp_path / "model")


def test_an_adapter_is_not_a_model(models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "base" / "config.json", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BrokenCheckpoint, match="adapter"):
        Checkpoint.open(tmp_path)


def test_a_model_type_without_a_row_is_read_by_its_tensors(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"model_type": "future"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert Checkpoint.open(tmp_path / "model").backbone_names() == Checkpoint.open(models / "base").backbone_names()


def test_tensors_without_an_embedding_are_refused_with_the_line_to_add(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors")
    with pytest.raises(UnknownArchitecture, match=r"(?s)no numbered blocks beside.*`backbone: \{body"):
        Checkpoint.open(tmp_path / "model")


def test_quantised_weights_are_refused(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "base", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, tmp_path / "model" / "model.safetensors")
    recipe = make_recipe(models, {"math": (0.5, 1.0)}, base=str(tmp_path / "model"))
    with pytest.raises(BrokenCheckpoint, match=r"stored as I8[\s\S]*quantisation"):
        merge_all(recipe)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(models: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(models / "base", tmp_path / "model")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(Path("..") / name)
    with pytest.raises(BrokenCheckpoint, match=rf"{name}: is a link that leads out of the model's folder"):
        Checkpoint.open(folder)
    (tmp_path / name).rename(folder / f"own-{name}")
    (folder / name).unlink()
    (folder / name).symlink_to(f"own-{name}")
    assert Checkpoint.open(folder).places
