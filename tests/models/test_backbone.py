"""The backbone inside a loaded model, and writing into its parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from evovlm.errors import UnknownArchitecture
from evovlm.models.backbone import Backbone, ParameterWriter
from evovlm.models.loading import load_model

NAMES = {"model.norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}


def writer_of(model: Any, names: Mapping[str, str] = NAMES) -> ParameterWriter:
    """Return a writer into parameters that are stored as they are in memory."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return ParameterWriter(model, names, shapes={name: shapes[name] for name in names})


def test_writing_is_in_place_and_converts_the_dtype(llm_folder: Path) -> None:
    model = load_model(llm_folder, device="cpu").model
    before = model.model.norm.weight
    kept = before.tolist()
    writer_of(model).write("model.norm.weight", 8, torch.full((4,), 0.5, dtype=torch.bfloat16))
    assert model.model.norm.weight is before
    assert before.dtype == torch.float32
    assert before.tolist() == [*kept[:8], 0.5, 0.5, 0.5, 0.5, *kept[12:]]


def test_numpy_writes_into_the_memory_of_a_parameter_where_it_can(llm_folder: Path) -> None:
    model = load_model(llm_folder, device="cpu").model
    memory = writer_of(model).in_place("lm_head.weight")
    assert memory is not None
    memory[3] = 7.0
    assert float(model.lm_head.weight.detach().flatten()[3]) == 7.0
    half = model.to(torch.bfloat16)
    assert writer_of(half).in_place("lm_head.weight") is None


def test_a_parameter_that_is_missing_is_named(llm_folder: Path) -> None:
    model = load_model(llm_folder, device="cpu").model
    with pytest.raises(UnknownArchitecture, match=r"model\.nothing"):
        writer_of(model, {"model.norm.weight": "model.nothing"})


def test_the_backbone_of_a_vlm_is_its_language_model(vlm_folder: Path) -> None:
    loaded = load_model(vlm_folder, device="cpu")
    backbone = Backbone.of(loaded)
    assert backbone.decoder is loaded.model.model.language_model
    assert backbone.head is loaded.model.lm_head
    assert backbone.embedding is backbone.decoder.embed_tokens
