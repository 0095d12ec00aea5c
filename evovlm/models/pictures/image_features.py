"""Pictures as the language model sees them: projected features, computed once because merging does not change them."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from evovlm.devices import is_out_of_memory
from evovlm.errors import BrokenCheckpoint, ModelError, UnknownArchitecture, first_line
from evovlm.models.loading import LoadedModel
from evovlm.models.pictures.feature_store import ProcessedPictures
from evovlm.models.threads import threads_each, threads_per_product
from evovlm.recipes.families import VLM_FAMILIES, VlmFamily

# What transformers and torch raise for pictures that they cannot process, and for settings that do not fit.
_REFUSALS = (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
_PLAIN_SIZE = (224, 224)
# Qwen2-VL's vision encoder names its width `embed_dim`.
_HIDDEN_SIZES = ("hidden_size", "embed_dim")


class UnfitPicture(Exception):
    """The model or its processor cannot process a picture."""


def is_decoded_here(loaded: LoadedModel) -> bool:
    """Return whether the features of its pictures can be computed apart from its answers; else `own_inputs` serve."""
    return loaded.model.config.model_type in VLM_FAMILIES


def own_inputs(loaded: LoadedModel, text: str, pictures: Sequence[Any], *, is_whole: bool) -> Mapping[str, Tensor]:
    """Return what the model's processor makes of a text with its image token in the place of each picture (PIL).

    `is_whole`: the text has its start token already. Raises UnfitPicture for a picture that the processor refuses,
    BrokenCheckpoint when it cannot process pictures.
    """
    processor: Any = loaded.processor
    with _explained(loaded):
        inputs = processor(text=[text], images=[list(pictures)], return_tensors="pt", add_special_tokens=not is_whole)
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def placed(inputs: Mapping[str, Tensor], loaded: LoadedModel) -> dict[str, Tensor]:
    """Return a processor's tensors on the model's device, floats in its dtype."""
    return {name: _placed(value, loaded) for name, value in inputs.items()}


def family_of(loaded: LoadedModel) -> VlmFamily:
    """Return the family of a vision-language model. Raises UnknownArchitecture for one without a row in the table."""
    model_type = loaded.model.config.model_type
    if model_type not in VLM_FAMILIES:
        raise UnknownArchitecture(
            f"{loaded.folder}: pictures are not supported for the model type {model_type}, only for "
            f"{', '.join(sorted(VLM_FAMILIES))}.\n"
            "    The model can still be merged, and scored on text."
        )
    return VLM_FAMILIES[model_type]


@torch.inference_mode()
def see_pictures(loaded: LoadedModel, pictures: Sequence[Any]) -> tuple[Tensor, ProcessedPictures]:
    """Return the projected features of pictures (PIL), shape (image tokens, width), and the processor's output.

    Pictures go through the processor, the vision encoder and the projector exactly as in the model's own forward pass.
    Width is the hidden size; for a model that adds features in several layers (Qwen3-VL's deepstack), the features of
    all these layers are concatenated. Pictures of different questions are never in one batch: that would change the
    features' last bits, so that scores would depend on the other samples.

    Raises UnknownArchitecture for a model without a family, UnfitPicture for a picture that model or processor refuse,
    BrokenCheckpoint when they cannot process an ordinary picture either, ModelError for features that are not finite.
    """
    family_of(loaded)
    parts = (loaded.model.config.vision_config, loaded.model.config.text_config)
    widest = max(getattr(part, key, None) or 0 for part in parts for key in _HIDDEN_SIZES)
    with threads_each(threads_per_product(hidden_size=widest, device=loaded.device)):
        return _seen_or_refused(loaded, pictures)


def _seen_or_refused(loaded: LoadedModel, pictures: Sequence[Any]) -> tuple[Tensor, ProcessedPictures]:
    try:
        return _seen(loaded, pictures)
    except BrokenCheckpoint as broken:
        try:
            _seen(loaded, [Image.new("RGB", _PLAIN_SIZE)])
        except (BrokenCheckpoint, UnfitPicture):
            raise broken from broken.__cause__
        reason = first_line(broken.__cause__ or broken)
        raise UnfitPicture(f"the model cannot process the picture ({reason})") from broken


def _seen(loaded: LoadedModel, pictures: Sequence[Any]) -> tuple[Tensor, ProcessedPictures]:
    inputs, texts = _processed(loaded, pictures)
    found = _model_output(loaded, inputs)
    layers = (found.pooler_output, *(getattr(found, "deepstack_features", None) or ()))
    features = torch.cat([_rows(layer) for layer in layers], dim=1)
    if not bool(torch.isfinite(features).all()):
        raise ModelError(
            f"{loaded.folder}: the image features of its vision encoder and projector are not finite in "
            f"{str(features.dtype).removeprefix('torch.')}.\n"
            "    The weights are broken or overflow; on a CPU (device: cpu) the model computes in float32."
        )
    n_tokens = int((inputs["input_ids"] == loaded.model.config.image_token_id).sum())
    if n_tokens != len(features):
        raise BrokenCheckpoint(
            f"{loaded.folder}: its processor makes {n_tokens} image tokens, but the model has {len(features)} "
            "features.\n    Correct patch_size, vision_feature_select_strategy or image_seq_length of the processor."
        )
    return features, ProcessedPictures(texts=texts, n_tokens=n_tokens, grid=inputs.get("image_grid_thw"))


def _model_output(loaded: LoadedModel, inputs: Mapping[str, Any]) -> Any:
    """Return the output of the vision encoder and the projector for what the processor made."""
    takes = inspect.signature(loaded.model.model.get_image_features).parameters
    given = {name: _placed(value, loaded) for name, value in inputs.items() if name in takes}
    try:
        return loaded.model.model.get_image_features(**given, return_dict=True)
    except torch.AcceleratorError:
        raise
    except (ValueError, *_REFUSALS) as error:
        if is_out_of_memory(error):
            raise
        raise BrokenCheckpoint(
            f"{loaded.folder}: its vision encoder does not take what its processor makes ({first_line(error)}).\n"
            "    Correct patch_size, size and spatial_merge_size of the processor."
        ) from error


def _processed(loaded: LoadedModel, pictures: Sequence[Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the processor's output for the pictures of one question, and its text in place of each."""
    processor: Any = loaded.processor
    with _explained(loaded):
        inputs = processor(
            text=[str(processor.image_token) * len(pictures)],
            images=[list(pictures)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
    return inputs, tuple(each["replacement"] for each in inputs["text_replacement_offsets"][0])


@contextmanager
def _explained(loaded: LoadedModel) -> Iterator[None]:
    """Turn what a processor raises into UnfitPicture or BrokenCheckpoint."""
    try:
        yield
    except ValueError as error:
        raise UnfitPicture(f"the model's processor does not accept the picture ({error})") from error
    except _REFUSALS as error:
        if is_out_of_memory(error):
            raise
        raise BrokenCheckpoint(
            f"{loaded.folder}: its processor cannot process a picture ({error}).\n"
            "    A key is missing in its processor_config.json or preprocessor_config.json, often patch_size."
        ) from error


def _placed(value: Tensor, loaded: LoadedModel) -> Tensor:
    dtype = next(loaded.model.parameters()).dtype
    return value.to(loaded.device, dtype if value.is_floating_point() else None)


def _rows(layer: Tensor | Sequence[Tensor]) -> Tensor:
    """Return features that are grouped by picture or by tile as one row per image token."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in layer])


def by_layer(features: Tensor, *, hidden: int) -> list[Tensor]:
    """Split features, shape (image tokens, width), into those at the embedding and those that later layers add.

    Each part has shape (image tokens, `hidden`).
    """
    return [features[:, start : start + hidden] for start in range(0, features.shape[1], hidden)]
