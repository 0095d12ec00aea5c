"""Reads the JSON files of a model folder, which come from strangers: bounded in size, and the values checked.

Everything that reads a config.json reads it here, so that the rest of the package can rely on the kinds of its values.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evovlm.errors import BrokenCheckpoint
from evovlm.foreign_json import read_json
from evovlm.recipes.checkpoint_files import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, refuse_outside
from evovlm.recipes.missing_weights import missing_weights

GENERATION_CONFIG_FILE = "generation_config.json"
CONFIG_LIMIT_BYTES = 20_000_000
MOST_BLOCKS = 2_000
"""More blocks than any published model or path has; each costs time and memory before a weight is read."""
_LARGEST_SIZE = 100_000_000
_LARGEST_PICTURE = 10_000
_DEEPEST = 20
_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What values a setting can have: a test, and words for the message."""

    needed: str
    holds: Callable[[Any], bool]


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # type: ignore[arg-type]


def _size(most: int, *, low: int = 1) -> _Kind:
    return _Kind(needed=f"a whole number from {low} to {most}", holds=lambda value: _is_int(value, low, most))


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(needed=f"{kind.needed}, or null", holds=lambda value: value is None or kind.holds(value))


_BLOCK_COUNT = _size(MOST_BLOCKS)
_COUNT = _size(_LARGEST_SIZE)
_PICTURE = _Kind(
    needed=f"one or two whole numbers from 1 to {_LARGEST_PICTURE}",
    holds=lambda value: all(
        _is_int(each, 1, _LARGEST_PICTURE) for each in (value if isinstance(value, list) and value else [value])
    ),
)
_POSITIVE = _Kind(needed="a number above 0", holds=lambda value: _is_number(value) and value > 0)
_NOT_NEGATIVE = _Kind(needed="a number of at least 0", holds=lambda value: _is_number(value) and value >= 0)
_TOKENS = _Kind(
    needed="the number of a token, a list of them, or null",
    holds=lambda value: (
        value is None
        or all(_is_int(each, -1, _LARGEST_SIZE) for each in (value if isinstance(value, list) else [value]))
    ),
)
_TOKEN = _or_null(_size(_LARGEST_SIZE, low=0))
_FLAG = _Kind(needed="true or false", holds=lambda value: isinstance(value, bool))
_TEXT = _Kind(needed="a text", holds=lambda value: isinstance(value, str))
_OBJECT = _Kind(needed="a JSON object", holds=lambda value: isinstance(value, dict))
_TEXTS = _Kind(
    needed="a list of texts",
    holds=lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
)

_KINDS: Mapping[str, _Kind] = {
    "model_type": _TEXT,
    "architectures": _or_null(_TEXTS),
    "text_config": _or_null(_OBJECT),
    "vision_config": _or_null(_OBJECT),
    "num_hidden_layers": _BLOCK_COUNT,
    "n_layer": _BLOCK_COUNT,
    "n_layers": _BLOCK_COUNT,
    "num_layers": _BLOCK_COUNT,
    "depth": _BLOCK_COUNT,
    "encoder_layers": _size(MOST_BLOCKS, low=0),
    "decoder_layers": _size(MOST_BLOCKS, low=0),
    "hidden_size": _COUNT,
    "intermediate_size": _Kind(
        needed=f"a whole number from 1 to {_LARGEST_SIZE}, or a list of them",
        holds=lambda value: all(
            _is_int(each, 1, _LARGEST_SIZE) for each in (value if isinstance(value, list) and value else [value])
        ),
    ),
    "vocab_size": _COUNT,
    "num_attention_heads": _COUNT,
    "num_key_value_heads": _or_null(_COUNT),
    "head_dim": _or_null(_COUNT),
    "max_position_embeddings": _or_null(_COUNT),
    "image_size": _PICTURE,
    "patch_size": _PICTURE,
    "sliding_window": _or_null(_size(_LARGEST_SIZE, low=0)),
    "use_sliding_window": _or_null(_FLAG),
    "max_window_layers": _or_null(_size(_LARGEST_SIZE, low=0)),
    "sliding_window_pattern": _or_null(_COUNT),
    "_sliding_window_pattern": _or_null(_COUNT),
    "layer_types": _or_null(_TEXTS),
    "rms_norm_eps": _or_null(_NOT_NEGATIVE),
    "hidden_act": _or_null(_TEXT),
    "hidden_activation": _or_null(_TEXT),
    "tie_word_embeddings": _or_null(_FLAG),
    "rope_theta": _or_null(_POSITIVE),
    "rope_local_base_freq": _or_null(_POSITIVE),
    "rope_scaling": _or_null(_OBJECT),
    "rope_parameters": _or_null(_OBJECT),
    "rope_type": _or_null(_TEXT),
    "eos_token_id": _TOKENS,
    "pad_token_id": _TOKENS,
    "bos_token_id": _TOKENS,
    "image_token_index": _TOKEN,
    "image_token_id": _TOKEN,
    "video_token_id": _TOKEN,
    "vision_start_token_id": _TOKEN,
    "vision_end_token_id": _TOKEN,
    "deepstack_visual_indexes": _Kind(
        needed=f"a list of at most {MOST_BLOCKS} whole numbers",
        holds=lambda value: (
            isinstance(value, list) and len(value) <= MOST_BLOCKS and all(type(each) is int for each in value)
        ),
    ),
}
"""Settings that are read here, or that cost time and memory before transformers has looked at them."""


def read_model_json(file: Path, *, limit_bytes: int = CONFIG_LIMIT_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file of a model folder.

    Raises BrokenCheckpoint, which names the file, when it is missing, not a regular file of at most `limit_bytes`, a
    link that leads out of the folder, or does not hold a JSON object.
    """
    refuse_outside(file, file.parent)
    try:
        # Sound models have infinite numbers.
        found = read_json(file, limit_bytes=limit_bytes, non_finite=True)
    except FileNotFoundError as error:
        if file.parent.is_dir() and not any((file.parent / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
            raise missing_weights(file.parent) from error
        raise BrokenCheckpoint(
            f"{file.parent}: {file.name} was not found. A model folder holds config, tokenizer and weights."
        ) from error
    except OSError as error:
        raise BrokenCheckpoint(f"{file}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise BrokenCheckpoint(f"{file}: cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise BrokenCheckpoint(f"{file}: should hold a JSON object.")
    return found


def read_model_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a model folder, whose known settings have the kinds of values that they should.

    Raises BrokenCheckpoint, which names the file, the setting, its value and what is needed.
    """
    file = folder / CONFIG_FILE
    config = read_model_json(file)
    _check(file, config, inside="", depth=0)
    return config


def check_generation_config(folder: Path) -> None:
    """Raise BrokenCheckpoint, as `read_model_config` does, for the generation_config.json of a folder that has one."""
    file = folder / GENERATION_CONFIG_FILE
    if os.path.lexists(file):
        _check(file, read_model_json(file), inside="", depth=0)


def _check(file: Path, settings: Mapping[str, Any], *, inside: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise BrokenCheckpoint(f"{file}: {inside[:_SHOWN]}... is nested more than {_DEEPEST} levels deep.")
    for key, value in settings.items():
        kind = _KINDS.get(key)
        if kind is not None and not kind.holds(value):
            raise BrokenCheckpoint(f"{file}: {inside}{key} is {_shown(value)}; it should be {kind.needed}.")
        if isinstance(value, dict):
            _check(file, value, inside=f"{inside}{key}.", depth=depth + 1)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
