"""Drawn pictures, and texts as families write them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from evovlm.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture in memory that notes how often it is loaded."""

    key: str
    picture: Image.Image
    loads: list[str] = field(default_factory=list)

    def load(self) -> Image.Image:
        """Return the picture."""
        self.loads.append(self.key)
        return self.picture


def drawn() -> dict[str, Drawn]:
    """Return three pictures of noise of different shapes."""
    noise = np.random.default_rng(0)
    sizes = {"square": (40, 40), "wide": (30, 90), "tall": (64, 20)}
    return {
        name: Drawn(key=name, picture=Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)))
        for name, size in sizes.items()
    }


def own_text(loaded: LoadedModel, text: str) -> str:
    """Return a text with `<image>` in the words of the model's own processor."""
    processor: Any = loaded.processor
    token = str(processor.image_token)
    if loaded.model.config.model_type.startswith("qwen"):
        token = f"<|vision_start|>{token}<|vision_end|>"
    return text.replace("<image>", token)
