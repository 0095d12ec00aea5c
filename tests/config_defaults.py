"""Writes evovlm/recipes/config_defaults.json from the installed transformers: `python -m tests.config_defaults`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evovlm.recipes.language_config import DEFAULTS_FILE, is_setting

_LONGEST_LIST = 8


def defaults_of(model_type: str) -> Mapping[str, Any] | None:
    """Return what a config of this type means where it states nothing; None for one that must state something."""
    try:
        own = CONFIG_MAPPING[model_type]().to_dict()
    except (StrictDataclassError, ValueError):
        return None
    found = {name: value for name, value in sorted(own.items()) if is_setting(name, value)}
    # A list with a number for each block is as long as the model.
    found = {name: value for name, value in found.items() if not isinstance(value, list) or len(value) <= _LONGEST_LIST}
    theta = (own.get("rope_parameters") or {}).get("rope_theta")
    return found if theta is None else {**found, "rope_theta": theta}


def every_default() -> Mapping[str, Mapping[str, Any]]:
    """Return the defaults of every model type of a language model, alone or inside another model."""
    types = (name for name in CONFIG_MAPPING if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or name.endswith("_text"))
    return {name: found for name in sorted(types) if (found := defaults_of(name)) is not None}


if __name__ == "__main__":
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in every_default().items()]
    Path(DEFAULTS_FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
