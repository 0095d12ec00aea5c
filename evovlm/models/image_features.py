"""Pictures as the language model sees them: projected features, computed once because nothing merged changes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evovlm.models.loading import LoadedModel

_PICTURES_AT_ONCE = 64


@torch.inference_mode()
def project_images(loaded: LoadedModel, images: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the projected features of each picture (PIL), shape (image tokens, hidden size), on the CPU.

    These go through the processor's image part, the vision encoder and the projector, exactly as in the model's own
    forward pass. They stay on the CPU because the pictures of a large task, cut into tiles, would fill a GPU.
    """
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
