"""`evovlm convert`: from pickles to a model that merges."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cli.conftest import Command


def test_a_refused_model_is_converted_as_its_error_says(evovlm: Command, models: Path, tmp_path: Path) -> None:
    source = shutil.copytree(models / "ja", tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(models / "ja" / "model.safetensors"), source / "pytorch_model.bin")
    shown = evovlm("convert", source, "--out", tmp_path / "out")
    assert shown.code == 0, shown
    assert "1 safetensors file," in shown.out
    told = json.loads(evovlm("convert", source, "--out", tmp_path / "again", "--json").out)
    assert told["files"] == ["model.safetensors"]
    assert (tmp_path / "again" / "tokenizer.json").is_file()
    refused = evovlm("convert", source, "--out", tmp_path / "out")
    assert refused.code == 2
    assert "exists already" in refused.err
