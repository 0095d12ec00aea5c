"""Projected features against the model's own forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evovlm.errors import UnknownArchitecture
from evovlm.models import image_features
from evovlm.models.image_features import project_images
from evovlm.models.loading import LoadedModel, load_model
from tests.pico import pico_vlm


def test_features_are_those_the_model_computes_itself(vlm: LoadedModel, images: dict[str, Image.Image]) -> None:
    processor: Any = vlm.processor
    features = project_images(vlm, images)
    for name, picture in images.items():
        inputs = processor(images=picture, text="<image>", return_tensors="pt")
        own = vlm.model(**inputs).image_hidden_states
        assert features[name].shape == (16, 32)
        torch.testing.assert_close(features[name], own.view(16, 32), rtol=1e-5, atol=1e-6)


def test_a_picture_has_the_same_features_in_any_company(
    vlm: LoadedModel, images: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = project_images(vlm, images)
    monkeypatch.setattr(image_features, "_PICTURES_AT_ONCE", 1)
    for name, features in project_images(vlm, images).items():
        torch.testing.assert_close(features, together[name], rtol=1e-5, atol=1e-6)


def test_a_model_without_a_processor_takes_no_pictures(llm: LoadedModel, images: dict[str, Image.Image]) -> None:
    with pytest.raises(TypeError, match="no pictures"):
        project_images(llm, images)


@pytest.mark.parametrize("family", ["qwen2_vl", "mistral3"])
def test_pictures_that_would_be_decoded_wrongly_are_refused(
    tmp_path: Path, images: dict[str, Image.Image], family: str
) -> None:
    loaded = load_model(pico_vlm(tmp_path / "vlm", family=family), device="cpu")
    with pytest.raises(UnknownArchitecture, match=f"pictures of a {family} are not decoded yet; those of llava,"):
        project_images(loaded, images)
