"""Folders and repositories without the weights of a model say what they hold and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evovlm.errors import BrokenCheckpoint, ModelError
from evovlm.evaluation.opening import load_reference
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.recipes.model_ref import ModelRef
from tests.hub_fixtures import OpenHub, open_hub
from tests.merging.recipes import make_recipe
from tests.merging.vocabularies import add_tokens
from tests.pico import pico_llm

__all__ = ["open_hub"]

KINDS = {
    "diffusers": (["model_index.json"], "is a pipeline of the diffusers library"),
    "GGUF": (["model-Q4_K_M.gguf"], r"GGUF files \(model-Q4_K_M.gguf\).*Name the model that they were made from"),
    "consolidated": (["consolidated.safetensors", "params.json"], "in their authors' own format"),
    "Llama's own": (["consolidated.00.pth", "params.json"], "in their authors' own format"),
    "fp16": (["model.fp16.safetensors"], r"a variant of the weights \(model.fp16.safetensors\).*Rename"),
    "shards alone": (["model-00001-of-00003.safetensors"], "only a part of the model.*Fetch the model again"),
    "another library": (["tf_model.h5"], "weights for another library"),
    "a pickle": (["pytorch_model.bin"], "evovlm convert"),
    "another name": (["weights.safetensors"], r"has neither model.safetensors nor .*; it has weights.safetensors"),
    "nothing": ([], "has neither model.safetensors nor"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llm(tmp_path_factory.mktemp("whole") / "model")


def without_weights(model: Path, folder: Path, files: list[str]) -> Path:
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    for name in files:
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_named_for_what_it_is(model: Path, tmp_path: Path, kind: str) -> None:
    files, message = KINDS[kind]
    folder = without_weights(model, tmp_path / "folder", files)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        Checkpoint.open(folder)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        load_reference(ModelRef(text=str(folder)), device="cpu")


@pytest.mark.parametrize("kind", ["diffusers", "GGUF", "consolidated", "fp16", "shards alone"])
def test_a_repository_is_named_for_what_it_is(model: Path, tmp_path: Path, open_hub: OpenHub, kind: str) -> None:
    files, message = KINDS[kind]
    open_hub({"org/model": without_weights(model, tmp_path / "folder", files)})
    with pytest.raises(ModelError, match=f"(?s)Model 'org/model' on the hub: .*{message}"):
        Checkpoint.open_model(ModelRef(text="org/model"))


def test_the_folder_of_a_training_names_its_last_checkpoint(model: Path, tmp_path: Path) -> None:
    folder = without_weights(model, tmp_path / "folder", ["training_args.bin", "optimizer.pt"])
    for step in (500, 1500, 1000):
        shutil.copytree(model, folder / f"checkpoint-{step}")
    with pytest.raises(BrokenCheckpoint, match=r"with 3 checkpoints .*\n.*Name one of them.*checkpoint-1500\."):
        Checkpoint.open(folder)
    assert Checkpoint.open(folder / "checkpoint-1500").places


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_says_how_to_fetch_the_file(model: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "folder"))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5301080\n"
    (folder / name).write_text(pointer)
    for read in (Checkpoint.open, lambda path: load_reference(ModelRef(text=str(path)), device="cpu")):
        with pytest.raises(BrokenCheckpoint, match=r"is a pointer of git-lfs.*\n.*git lfs pull"):
            read(folder)


def test_check_finds_a_config_that_contradicts_the_weights(model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    shutil.copytree(model, tmp_path / "base")
    found = preflight_recipe(make_recipe(tmp_path, {"other": (1.0, 1.0)}))
    assert any("num_hidden_layers is 3, but the weights have 2 blocks" in str(problem) for problem in found.problems)


def test_check_finds_tokens_without_a_row(model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    shutil.copytree(model, tmp_path / "base")
    weights = load_file(other / "model.safetensors")
    rows = len(weights["lm_head.weight"])
    add_tokens(other, {"<|more|>": rows, "<|most|>": rows + 1})
    found = preflight_recipe(make_recipe(tmp_path, {"other": (1.0, 1.0)}))
    (warning,) = [each for each in found.warnings if "without a row" in each]
    assert f"has 2 tokens without a row among the {rows} of its embedding ('<|more|>', '<|most|>')" in warning
    grown = {name: torch.cat([t, t[:2]]) if len(t) == rows else t for name, t in weights.items()}
    save_file(grown, other / "model.safetensors")
    assert not [
        each
        for each in preflight_recipe(make_recipe(tmp_path, {"other": (1.0, 1.0)})).warnings
        if "without a row" in each
    ]
