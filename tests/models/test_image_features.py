"""Projected features against the model's own forward pass."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evovlm.errors import BrokenCheckpoint, ModelError, UnknownArchitecture
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.pictures.image_features import UnfitPicture, by_layer, see_pictures
from tests.models.pictures import drawn
from tests.pico import pico_vlm


def test_features_are_those_the_model_computes_itself(vlm: LoadedModel, images: dict[str, Image.Image]) -> None:
    processor: Any = vlm.processor
    for picture in images.values():
        inputs = processor(images=picture, text="<image>", return_tensors="pt")
        own = vlm.model(**inputs).image_hidden_states
        features, shown = see_pictures(vlm, [picture])
        assert features.shape == (16, 32)
        assert shown.n_tokens == 16
        assert torch.equal(features, own.view(16, 32))


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_processor_that_was_published_before_it_counted_image_tokens_is_completed(
    family: str, tmp_path: Path
) -> None:
    """As EvoVLM-JP-v1-7B is: a preprocessor_config.json, and no processor_config.json."""
    folder = pico_vlm(tmp_path / "m", family=family)
    picture = drawn()["wide"].picture
    before, _ = see_pictures(load_model(folder, device="cpu"), [picture])
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    file.unlink()
    preprocessor = {
        **settings["image_processor"],
        "aspect_ratio_setting": "anyres",
        "processor_class": settings["processor_class"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    after, shown = see_pictures(load_model(folder, device="cpu"), [picture])
    assert torch.equal(after, before)
    assert shown.n_tokens == len(after)


def test_pictures_cut_into_tiles_have_as_many_features_as_tiles_need(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="llava_next"), device="cpu")
    lengths = {name: len(see_pictures(loaded, [picture.picture])[0]) for name, picture in drawn().items()}
    assert len(set(lengths.values())) > 1


def test_a_picture_beside_others_is_not_cut_where_the_family_does_not(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="llava_onevision"), device="cpu")
    wide = drawn()["wide"].picture
    alone, _ = see_pictures(loaded, [wide])
    together, _ = see_pictures(loaded, [wide, wide])
    assert len(together) < 2 * len(alone)


def test_features_for_several_layers_stand_side_by_side(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="qwen3_vl"), device="cpu")
    features, shown = see_pictures(loaded, [drawn()["square"].picture])
    at_embedding, later = by_layer(features, hidden=32)
    assert at_embedding.shape == later.shape == (shown.n_tokens, 32)
    assert not torch.equal(at_embedding, later)
    assert shown.grid is not None
    assert shown.grid.shape == (1, 3)


def test_a_family_that_would_be_decoded_wrongly_is_refused(
    tmp_path: Path, images: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m"), device="cpu")
    monkeypatch.setattr(loaded.model.config, "model_type", "future_vl")
    with pytest.raises(
        UnknownArchitecture, match=r"pictures are not supported for the model type future_vl, only for gemma3, .*"
    ):
        see_pictures(loaded, [images["red"]])


def test_features_that_are_not_finite_are_an_error(tmp_path: Path, images: dict[str, Image.Image]) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m"), device="cpu")
    with torch.no_grad():
        loaded.model.model.multi_modal_projector.linear_1.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"image features .* are not finite in float32"):
        see_pictures(loaded, [images["red"]])


def test_a_processor_that_does_not_fit_its_model_is_reported(tmp_path: Path, images: dict[str, Image.Image]) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m"), device="cpu")
    processor: Any = loaded.processor
    processor.patch_size = 16
    with pytest.raises(BrokenCheckpoint, match="4 image tokens, but the model has 16 features"):
        see_pictures(loaded, [images["red"]])
    processor.patch_size = None
    with pytest.raises(BrokenCheckpoint, match=r"processor cannot process a picture .*\n.* often patch_size"):
        see_pictures(loaded, [images["red"]])


def test_a_picture_that_the_processor_refuses_is_reported(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="qwen2_vl"), device="cpu")
    with pytest.raises(UnfitPicture, match=r"does not accept the picture .*aspect ratio"):
        see_pictures(loaded, [Image.new("RGB", (3000, 2))])


def test_a_picture_that_the_vision_encoder_cannot_take_is_refused_alone(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "m", family="mistral3"), device="cpu")
    with pytest.raises(UnfitPicture, match="the model cannot process the picture"):
        see_pictures(loaded, [Image.new("RGB", (1, 1))])
    assert len(see_pictures(loaded, [Image.new("RGB", (64, 48))])[0]) == 4
