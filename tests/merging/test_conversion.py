"""Pickled checkpoints become safetensors, and nothing in them is run."""

import json
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evovlm.errors import BrokenCheckpoint, ModelNotFound, OutputExists, PickledWeights
from evovlm.merging.checkpoint.conversion import convert_checkpoint
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.recipes.model_ref import ModelRef
from tests.hub_fixtures import OpenHub, open_hub

__all__ = ["open_hub"]


def without_weights(model: Path, folder: Path) -> Path:
    return shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))


def pickled(model: Path, folder: Path, *, shards: int = 1) -> Path:
    """Return a copy of a pico model with its weights in pickles."""
    without_weights(model, folder)
    weights = load_file(model / "model.safetensors")
    if shards == 1:
        torch.save(OrderedDict(weights), folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: weight for place, (name, weight) in enumerate(weights.items()) if place % shards == number}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def convert(folder: Path, out: Path) -> Path:
    return convert_checkpoint(ModelRef(text=str(folder)), out).folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("name", ["base", "base16", "tied"])
def test_the_weights_stay_the_same_to_the_bit(models: Path, tmp_path: Path, name: str, shards: int) -> None:
    source = pickled(models / name, tmp_path / "pickled", shards=shards)
    converted = convert_checkpoint(ModelRef(text=str(source)), tmp_path / "deep" / "out")
    assert len(converted.files) == shards
    whole, again = Checkpoint.open(models / name), Checkpoint.open(converted.folder)
    assert again.backbone_names() == whole.backbone_names()
    assert converted.n_tensors == len(whole.places)
    for tensor in whole.backbone_names():
        assert again.place(tensor).dtype_code == whole.place(tensor).dtype_code
        assert again.place(tensor).read_bytes() == whole.place(tensor).read_bytes()
    assert AutoModelForCausalLM.from_pretrained(converted.folder).num_parameters() > 0
    kept = {path.name for path in converted.folder.iterdir()}
    assert {"config.json", "tokenizer.json"} <= kept
    assert not any("bin" in name for name in kept)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_tensors_that_share_memory_are_each_written_whole(models: Path, tmp_path: Path) -> None:
    source = without_weights(models / "tied", tmp_path / "pickled")
    weights = load_file(models / "tied" / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding
    weights["a.view"] = embedding[2:4]
    weights["turned"] = embedding.t()
    torch.save(weights, source / "pytorch_model.bin")
    found = load_file(convert(source, tmp_path / "out") / "model.safetensors")
    for name in weights:
        assert torch.equal(found[name], weights[name])
    assert Checkpoint.open(tmp_path / "out").layout.tied


def test_the_format_of_old_torch_is_read(models: Path, tmp_path: Path) -> None:
    source = without_weights(models / "base", tmp_path / "pickled")
    weights = load_file(models / "base" / "model.safetensors")
    torch.save(weights, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = load_file(convert(source, tmp_path / "out") / "model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def test_a_link_that_leads_out_of_the_folder_is_not_converted(models: Path, tmp_path: Path) -> None:
    source = without_weights(models / "base", tmp_path / "pickled")
    (tmp_path / "secret").write_text("secret")
    (source / "notes.txt").symlink_to("../secret")
    torch.save(load_file(models / "base" / "model.safetensors"), tmp_path / "weights.bin")
    (source / "pytorch_model.bin").symlink_to("../weights.bin")
    with pytest.raises(BrokenCheckpoint, match=r"pytorch_model\.bin: is a link that leads out"):
        convert(source, tmp_path / "out")
    (tmp_path / "weights.bin").replace(source / "pytorch_model.bin")
    converted = convert_checkpoint(ModelRef(text=str(source)), tmp_path / "out")
    assert converted.notes == ("notes.txt is left out: it is a link that leads out of the folder.",)
    assert not (tmp_path / "out" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "contains no tensors"),
        ({"__metadata__": torch.zeros(2), "a": torch.zeros(2)}, "'__metadata__' cannot be a tensor's name"),
        ({1: torch.zeros(2), "1": torch.ones(2)}, "1 cannot be a tensor's name"),
        ({"a": torch.zeros(2), "\udc80": torch.ones(2)}, "cannot be a tensor's name"),
    ],
)
def test_no_tensor_is_dropped_or_renamed(
    models: Path, tmp_path: Path, weights: dict[object, torch.Tensor], message: str
) -> None:
    source = without_weights(models / "base", tmp_path / "pickled")
    torch.save(weights, source / "pytorch_model.bin")
    with pytest.raises(BrokenCheckpoint, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_the_index_does_not_name_is_not_dropped(models: Path, tmp_path: Path) -> None:
    source = pickled(models / "base", tmp_path / "pickled", shards=2)
    path = source / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    forgotten = index["weight_map"].popitem()[0]
    path.write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BrokenCheckpoint, match=f"does not list {forgotten}"):
        convert(source, tmp_path / "out")


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(models: Path, tmp_path: Path, plain: bool) -> None:
    source = without_weights(models / "base", tmp_path / "pickled")
    evil = {"a": torch.zeros(2), "b": Evil(tmp_path / "ran")}
    if plain:
        (source / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, source / "pytorch_model.bin")
    with pytest.raises((PickledWeights, BrokenCheckpoint), match=r"pytorch_model\.bin") as raised:
        convert(source, tmp_path / "out")
    assert isinstance(raised.value, PickledWeights) or plain
    assert not (tmp_path / "ran").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pickled"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.zeros(1)], "contains a list"),
        ({"state_dict": {"a": torch.zeros(1)}}, "state_dict is a dict, not a tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is torch.complex64"),
        ({"a": torch.zeros(1).expand(1 << 40)}, "claims 4398046511104 bytes"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "which safetensors cannot hold"),
    ],
)
def test_what_is_not_a_plain_state_dict_is_refused(models: Path, tmp_path: Path, content: object, match: str) -> None:
    source = without_weights(models / "base", tmp_path / "pickled")
    torch.save(content, source / "pytorch_model.bin")
    with pytest.raises(BrokenCheckpoint, match=match):
        convert(source, tmp_path / "out")


def test_broken_and_missing_files_are_named(models: Path, tmp_path: Path) -> None:
    source = pickled(models / "base", tmp_path / "pickled", shards=2)
    shard = source / "pytorch_model-00002-of-00002.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenCheckpoint, match=r"00002-of-00002\.bin: cannot be read"):
        convert(source, tmp_path / "out")
    torch.save({}, shard)
    with pytest.raises(BrokenCheckpoint, match="does not contain"):
        convert(source, tmp_path / "out")
    shard.unlink()
    with pytest.raises(BrokenCheckpoint, match=r"names pytorch_model-00002.*fetch the model again"):
        convert(source, tmp_path / "out")
    with pytest.raises(BrokenCheckpoint, match="are safetensors already"):
        convert(models / "base", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists):
        convert(source, tmp_path / "out")


def test_a_hub_model_s_pickles_are_fetched_for_this_alone(open_hub: OpenHub, models: Path, tmp_path: Path) -> None:
    source = pickled(models / "base", tmp_path / "published", shards=2)
    (source / "training_args.bin").write_bytes(b"more pickles")
    hub = open_hub({"org/model": source, "org/safe": models / "base"})
    ref = ModelRef(text="org/model")
    with pytest.raises(PickledWeights, match="evovlm convert org/model --out"):
        ref.resolve()
    assert not any(name.endswith(".bin") for name in hub.sent)
    folder = convert_checkpoint(ref, tmp_path / "out").folder
    assert Checkpoint.open(folder).backbone_names() == Checkpoint.open(models / "base").backbone_names()
    assert "training_args.bin" not in hub.sent
    with pytest.raises(BrokenCheckpoint, match="Nothing needs to be converted"):
        convert_checkpoint(ModelRef(text="org/safe"), tmp_path / "other")
    with pytest.raises(ModelNotFound):
        convert_checkpoint(ModelRef(text="org/none"), tmp_path / "other")
