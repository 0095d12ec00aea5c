"""Opens a model's processor, and completes what older models leave to their config."""

from pathlib import Path
from typing import Any

_HAS_CLASS_TOKEN = ("clip_vision_model", "clip")


def open_processor(folder: Path) -> Any:
    """Return the processor of a model that sees pictures.

    Until 2024, the processor of a LLaVA did not count image tokens, and its settings for that were published later or
    never (EvoVLM-JP-v1-7B). They are then those of the model's config.
    """
    from transformers import AutoConfig, AutoProcessor

    # AutoProcessor has no types.
    auto: Any = AutoProcessor
    processor = auto.from_pretrained(folder, trust_remote_code=False)
    if getattr(processor, "patch_size", ...) is None:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        vision = getattr(config, "vision_config", None)
        strategy = getattr(config, "vision_feature_select_strategy", None)
        if strategy is not None and vision is not None:
            processor.patch_size = getattr(vision, "patch_size", None)
            processor.vision_feature_select_strategy = strategy
            processor.num_additional_image_tokens = int(vision.model_type in _HAS_CLASS_TOKEN)
    return processor
