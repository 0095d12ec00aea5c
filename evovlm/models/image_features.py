"""Pictures as the language model sees them: projected features, computed once because nothing merged changes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evovlm.errors import UnknownArchitecture
from evovlm.models.loading import LoadedModel

_PICTURES_AT_ONCE = 64

DECODED = ("llava", "llava_next", "llava_onevision", "vipllava")
"""Model types whose pictures are decoded as their own `generate` does: image tokens in a row, at plain positions."""


@torch.inference_mode()
def project_images(loaded: LoadedModel, images: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the projected features of each picture (PIL), shape (image tokens, hidden size), on the CPU.

    These go through the processor's image part, the vision encoder and the projector, exactly as in the model's own
    forward pass. They stay on the CPU because the pictures of a large task, cut into tiles, would fill a GPU.
    Raises UnknownArchitecture for a model that wants more than image tokens in a row: positions in two dimensions,
    tokens between rows. Its answers would be wrong, and look right.
    """
    model_type = loaded.model.config.model_type
    if loaded.processor is not None and model_type not in DECODED:
        raise UnknownArchitecture(
            f"{loaded.folder}: pictures of a {model_type} are not decoded yet; those of {', '.join(DECODED)} are.\n"
            "    Merging it, and scoring it on text, work."
        )
    keys = list(images)
    features: dict[str, Tensor] = {}
    for start in range(0, len(keys), _PICTURES_AT_ONCE):
        part = keys[start : start + _PICTURES_AT_ONCE]
        inputs = _image_inputs(loaded, [images[key] for key in part])
        projected = loaded.model.model.get_image_features(**inputs)
        rows = projected.pooler_output if hasattr(projected, "pooler_output") else projected
        features.update({key: row.cpu().clone() for key, row in zip(part, rows, strict=True)})
    return features


def _image_inputs(loaded: LoadedModel, images: Sequence[Any]) -> dict[str, Any]:
    if loaded.processor is None:
        raise TypeError("a model without a processor takes no pictures")
    inputs = loaded.processor.image_processor(images=list(images), return_tensors="pt")
    dtype = next(loaded.model.parameters()).dtype
    return {
        name: value.to(loaded.device, dtype) if torch.is_floating_point(value) else value.to(loaded.device)
        for name, value in inputs.items()
    }
