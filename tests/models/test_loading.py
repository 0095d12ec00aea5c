"""Loading a model folder: what is loaded, in which dtype, and what is refused how."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from evovlm.devices import choose_device
from evovlm.errors import BrokenCheckpoint, ConfigError, PickledWeights, UnknownArchitecture
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.models.loading import check_fit, load_model


def copied(folder: Path, to: Path, *, without: str = "") -> Path:
    """Copy a model folder, leaving out the files that match."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns(without)))


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: place.shape for name, place in Checkpoint.open(folder).places.items()}


def test_on_a_cpu_parameters_are_float32_whatever_is_stored(llm_folder: Path) -> None:
    loaded = load_model(llm_folder, device="cpu")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not loaded.sees
    assert not loaded.model.training
    assert loaded.device.type == "cpu"


def test_a_vision_language_model_comes_with_its_processor(vlm_folder: Path) -> None:
    loaded = load_model(vlm_folder, device="cpu")
    assert loaded.sees
    assert loaded.processor is not None


def test_auto_is_the_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        choose_device(name)


def test_a_folder_without_a_tokenizer_says_what_to_copy(llm_folder: Path, tmp_path: Path) -> None:
    folder = copied(llm_folder, tmp_path / "m", without="tokenizer*")
    with pytest.raises(BrokenCheckpoint, match=r"no tokenizer[\s\S]*Copy the tokenizer files"):
        load_model(folder, device="cpu")


def test_pickled_weights_are_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = copied(llm_folder, tmp_path / "m", without="*.safetensors")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(PickledWeights, match="only safetensors"):
        load_model(folder, device="cpu")


def test_a_folder_without_weights_or_config_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenCheckpoint, match=r"has neither model\.safetensors nor"):
        load_model(copied(llm_folder, tmp_path / "a", without="*.safetensors"), device="cpu")
    with pytest.raises(BrokenCheckpoint, match=r"config\.json was not found"):
        load_model(copied(llm_folder, tmp_path / "b", without="config.json"), device="cpu")


def test_a_broken_config_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = copied(llm_folder, tmp_path / "m")
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(BrokenCheckpoint, match="as JSON"):
        load_model(folder, device="cpu")
    (folder / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BrokenCheckpoint, match="JSON object"):
        load_model(folder, device="cpu")


def test_a_truncated_weight_file_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = copied(llm_folder, tmp_path / "m")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(BrokenCheckpoint, match="cannot load"):
        load_model(folder, device="cpu")


def test_weights_that_lack_a_tensor_are_refused(llm_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(llm_folder, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"layers\.1\.mlp\.up_proj"):
        load_model(folder, device="cpu")


def test_a_model_with_custom_code_is_refused(llm_folder: Path, tmp_path: Path) -> None:
    folder = copied(llm_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "plamo"}), encoding="utf-8")
    with pytest.raises(UnknownArchitecture, match="'plamo'"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_config_that_names_code_of_the_hub_is_refused(llm_folder: Path, tmp_path: Path, key: str) -> None:
    folder = copied(llm_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "kernels-community/flash-attn2"}), encoding="utf-8")
    with pytest.raises(UnknownArchitecture, match=f"{key}: kernels-community"):
        load_model(folder, device="cpu")


def test_weights_are_not_read_through_a_link_out_of_the_folder(llm_folder: Path, tmp_path: Path) -> None:
    folder = copied(llm_folder, tmp_path / "m", without="*.safetensors")
    (folder / "model.safetensors").symlink_to(llm_folder / "model.safetensors")
    with pytest.raises(BrokenCheckpoint, match="leads out of the model's folder"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("intermediate_size", 40, r"config.json: contradicts the weights .* has shape \[32, 48\]"),
        ("num_hidden_layers", 1, "tensors in blocks that the model of its config.json lacks"),
        ("num_hidden_layers", 4, "its weights lack [0-9]+ tensors"),
        ("hidden_size", 10**7, "describes a model of [0-9]+ numbers, but the weights beside it have [0-9]+"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(
    llm_folder: Path, tmp_path: Path, key: str, value: int, says: str
) -> None:
    folder = copied(llm_folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")
    with pytest.raises(BrokenCheckpoint, match=says):
        check_fit(folder, shapes_in(folder))
    with pytest.raises(BrokenCheckpoint, match=says):
        load_model(folder, device="cpu")


def test_a_model_fits_its_own_weights(llm_folder: Path, vlm_folder: Path) -> None:
    check_fit(llm_folder, shapes_in(llm_folder))
    check_fit(vlm_folder, shapes_in(vlm_folder))
