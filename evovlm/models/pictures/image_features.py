"""Pictures as the language model sees them: projected features, computed once because nothing merged changes them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evovlm.errors import BrokenCheckpoint, ModelError, UnknownArchitecture
from evovlm.models.loading import LoadedModel
from evovlm.models.pictures.feature_store import Shown
from evovlm.recipes.families import VLM_FAMILIES, VlmFamily


class UnfitPicture(Exception):
    """The model's processor refuses a picture."""


def family_of(loaded: LoadedModel) -> VlmFamily:
    """Return the family of a vision-language model; raises UnknownArchitecture for one without a row in the table."""
    model_type = loaded.model.config.model_type
    if model_type not in VLM_FAMILIES:
        raise UnknownArchitecture(
            f"{loaded.folder}: pictures of a {model_type} are not decoded yet; those of "
            f"{', '.join(sorted(VLM_FAMILIES))} are.\n"
            "    Merging it, and scoring it on text, work."
        )
    return VLM_FAMILIES[model_type]


@torch.inference_mode()
def see_pictures(loaded: LoadedModel, pictures: Sequence[Any]) -> tuple[Tensor, Shown]:
    """Return the projected features of pictures (PIL), shape (image tokens, width), and what the processor makes of
    them.

    These go through the processor, the vision encoder and the projector exactly as in the model's own forward pass.
    Width is the hidden size; for a model that takes features into several layers (Qwen3-VL's deepstack), those of
    every such layer stand beside the first. Pictures are never put into a batch with those of other questions: that
    would change the features' last bits, and with them what a score on fewer samples says.

    Raises UnknownArchitecture for a model of no family, UnfitPicture for a picture that its processor
    refuses, BrokenCheckpoint where processor and model do not fit, ModelError for features that are not finite.
    """
    family_of(loaded)
    inputs, texts = _processed(loaded, pictures)
    takes = inspect.signature(loaded.model.model.get_image_features).parameters
    found = loaded.model.model.get_image_features(
        **{name: _placed(value, loaded) for name, value in inputs.items() if name in takes}, return_dict=True
    )
    layers = (found.pooler_output, *(getattr(found, "deepstack_features", None) or ()))
    features = torch.cat([_rows(layer) for layer in layers], dim=1)
    if not bool(torch.isfinite(features).all()):
        raise ModelError(
            f"{loaded.folder}: the image features of its vision encoder and projector are not finite in "
            f"{str(features.dtype).removeprefix('torch.')}.\n"
            "    Its weights are broken, or overflow: a CPU computes in float32 (device: cpu)."
        )
    n_tokens = int((inputs["input_ids"] == loaded.model.config.image_token_id).sum())
    if n_tokens != len(features):
        raise BrokenCheckpoint(
            f"{loaded.folder}: its processor makes {n_tokens} image tokens where the model has {len(features)} "
            "features.\n    Mend patch_size, vision_feature_select_strategy or image_seq_length of the processor."
        )
    return features, Shown(texts=texts, n_tokens=n_tokens, grid=inputs.get("image_grid_thw"))


def _processed(loaded: LoadedModel, pictures: Sequence[Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return a processor's inputs for pictures of one question, and the text that it puts in place of each."""
    processor: Any = loaded.processor
    try:
        inputs = processor(
            text=[str(processor.image_token) * len(pictures)],
            images=[list(pictures)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
    except ValueError as error:
        raise UnfitPicture(f"the model's processor does not take the picture ({error})") from error
    except (TypeError, AttributeError) as error:
        raise BrokenCheckpoint(
            f"{loaded.folder}: its processor cannot take a picture ({error}).\n"
            "    Its processor_config.json or preprocessor_config.json lacks something, often patch_size."
        ) from error
    return inputs, tuple(each["replacement"] for each in inputs["text_replacement_offsets"][0])


def _placed(value: Tensor, loaded: LoadedModel) -> Tensor:
    dtype = next(loaded.model.parameters()).dtype
    return value.to(loaded.device, dtype if value.is_floating_point() else None)


def _rows(layer: Tensor | Sequence[Tensor]) -> Tensor:
    """Return features by picture or by tile as one row per image token."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in layer])


def by_layer(features: Tensor, *, hidden: int) -> list[Tensor]:
    """Return features, shape (image tokens, width), as those at the embedding and those that later layers add, each of
    shape (image tokens, `hidden`)."""
    return [features[:, start : start + hidden] for start in range(0, features.shape[1], hidden)]
