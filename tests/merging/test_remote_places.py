"""Hub models known from their headers alone."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from evovlm.errors import BrokenCheckpoint, ModelError, ModelNotFound
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.recipes.model_ref import ModelRef
from tests.hub_fixtures import OpenHub, open_hub
from tests.pico import pico_llm

__all__ = ["open_hub"]

ROWS = 40_000
"""So many rows that the weights are far larger than the piece of a file in which a header is looked for."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    pico_llm(folder / "single", vocab_rows=ROWS)
    pico_llm(folder / "sharded", vocab_rows=ROWS, max_shard_size="6MB")
    return folder


@pytest.mark.parametrize("name", ["single", "sharded"])
def test_headers_say_what_the_weights_would_and_transfer_none(open_hub: OpenHub, published: Path, name: str) -> None:
    hub = open_hub({"org/model": published / name})
    whole, headers = Checkpoint.open(published / name), Checkpoint.open_headers(ModelRef(text="org/model"))
    assert headers.backbone_names() == whole.backbone_names()
    assert headers.layout == whole.layout
    for tensor in whole.backbone_names():
        assert headers.shape(tensor) == whole.shape(tensor)
        assert headers.place(tensor).dtype_code == whole.place(tensor).dtype_code
        assert headers.place(tensor).size_bytes == whole.place(tensor).size_bytes
    weights = {file: sent for file, sent in hub.sent.items() if file.endswith(".safetensors")}
    assert len(weights) == (1 if name == "single" else 2)
    assert max(weights.values()) <= 100_001 < sum(place.size_bytes for place in whole.places.values()) / 50
    assert not list(headers.folder.glob("*.safetensors"))
    assert (headers.folder / "tokenizer.json").is_file()


def test_weights_that_stayed_on_the_hub_cannot_be_read(open_hub: OpenHub, published: Path) -> None:
    open_hub({"org/model": published / "single"})
    opened = Checkpoint.open_headers(ModelRef(text="org/model"))
    for read in (opened.read, lambda name: opened.place(name).read_bytes()):
        with pytest.raises(ModelError, match="its weights are still on the hub"):
            read("model.norm.weight")


def test_weights_in_the_cache_are_used(open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_hub({"org/model": published / "sharded"})
    ref = ModelRef(text="org/model")
    Checkpoint.open_headers(ref)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="offline mode is on"):
        Checkpoint.open_headers(ref)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = ref.resolve()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    opened = Checkpoint.open_headers(ref)
    assert opened.folder == folder
    assert opened.read("model.norm.weight").shape == (32,)


def test_a_head_on_the_hub_is_tied_as_the_config_says(open_hub: OpenHub, tmp_path: Path) -> None:
    folder = pico_llm(tmp_path / "tied", tie=True)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors")
    open_hub({"org/model": folder})
    assert Checkpoint.open_headers(ModelRef(text="org/model")).layout.tied


def test_a_file_that_is_not_safetensors_is_named(open_hub: OpenHub, published: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"<html>" * 1000)
    (tmp_path / "config.json").write_bytes((published / "single" / "config.json").read_bytes())
    open_hub({"org/model": tmp_path})
    with pytest.raises(BrokenCheckpoint, match=r"'org/model': model.safetensors is not a safetensors file"):
        Checkpoint.open_headers(ModelRef(text="org/model"))


def test_a_folder_is_opened(published: Path) -> None:
    opened = Checkpoint.open_headers(ModelRef(text=str(published / "single")))
    assert opened.read("model.embed_tokens.weight").shape == (ROWS, 32)
