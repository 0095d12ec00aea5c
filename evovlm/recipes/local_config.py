"""What a model's config.json says, as far as it is at hand without a network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evovlm.errors import ModelNotFound
from evovlm.recipes.model_ref import ModelRef

_DTYPES = {"float64", "float32", "float16", "bfloat16"}


def read_config(ref: ModelRef) -> Mapping[str, Any] | None:
    """Return the model's config.json: from its folder, or from the hub's cache; None when it is at neither."""
    path = _config_path(ref)
    if path is None or not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        # Whoever opens the checkpoint says what is wrong with it.
        return None
    return config if isinstance(config, dict) else None


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of the config that describes the language model: of a text LLM, all of it."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def count_blocks(config: Mapping[str, Any]) -> int | None:
    """Return the number of decoder blocks, None when the config does not tell."""
    blocks = text_config(config).get("num_hidden_layers")
    return blocks if isinstance(blocks, int) and not isinstance(blocks, bool) and blocks > 0 else None


def stored_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the name of the dtype that the config says the weights are stored in, None when it does not tell."""
    for part in (config, text_config(config)):
        for key in ("dtype", "torch_dtype"):
            name = str(part.get(key)).removeprefix("torch.")
            if name in _DTYPES:
                return name
    return None


def _config_path(ref: ModelRef) -> Path | None:
    try:
        folder = ref.folder_at_hand()
    except ModelNotFound:
        return None
    return folder / "config.json" if folder is not None else None
