"""The backbone inside a loaded model, and writing into its parameters."""

from pathlib import Path

import pytest
import torch

from evovlm.errors import UnknownArchitecture
from evovlm.models.backbone import Backbone, ParameterWriter
from evovlm.models.loading import load_model

NAMES = {"model.norm.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}


def test_writing_is_in_place_and_converts_the_dtype(llm_folder: Path) -> None:
    model = load_model(llm_folder, device="cpu").model
    before = model.model.norm.weight
    assert ParameterWriter(model, NAMES).write([("model.norm.weight", torch.full((32,), 0.5, dtype=torch.bfloat16))])
    assert model.model.norm.weight is before
    assert before.dtype == torch.float32
    assert before.tolist() == [0.5] * 32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_writing_says_whether_every_value_is_finite(llm_folder: Path, value: float) -> None:
    tensor = torch.ones(32)
    tensor[7] = value
    writer = ParameterWriter(load_model(llm_folder, device="cpu").model, NAMES)
    assert not writer.write([("model.norm.weight", tensor)])
    assert writer.write([("model.norm.weight", torch.full((32,), 3e38))])


def test_a_parameter_that_is_missing_is_named(llm_folder: Path) -> None:
    model = load_model(llm_folder, device="cpu").model
    with pytest.raises(UnknownArchitecture, match=r"model\.nothing"):
        ParameterWriter(model, {"model.norm.weight": "model.nothing"})


def test_the_backbone_of_a_vlm_is_its_language_model(vlm_folder: Path) -> None:
    loaded = load_model(vlm_folder, device="cpu")
    backbone = Backbone.of(loaded)
    assert backbone.decoder is loaded.model.model.language_model
    assert backbone.head is loaded.model.lm_head
    assert backbone.embedding is backbone.decoder.embed_tokens
