"""The config.json of a path as an ordinary checkpoint: one block per hop, which attends as in its own model."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.result_layout import text_part
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.recipes.families import FULL_ATTENTION, SLIDING_ATTENTION, text_family
from evovlm.recipes.language_config import backbone_settings, block_count_key

_KINDS, _FIRST, _TIE = "layer_types", "max_window_layers", "tie_word_embeddings"
_PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")


def attention_kinds(layout: BackboneLayout) -> tuple[str, ...]:
    """Return the attention kind of each block of a checkpoint, as transformers reads its config."""
    config, family = layout.text_config, text_family(layout.text_model_type)
    stated = config.get(_KINDS)
    if isinstance(stated, list) and (family.has_attention_kinds or not family.is_known):
        return tuple(str(kind) for kind in stated)
    window = backbone_settings(config, layout.text_model_type)["sliding_window"]
    if family.pattern is not None:
        pattern = int(config.get(_PATTERNS[0]) or family.pattern)
        return tuple(_kind_in_pattern(number, pattern) for number in range(layout.n_blocks))
    if window is None:
        return (FULL_ATTENTION,) * layout.n_blocks
    first = int(config.get(_FIRST, family.max_window_layers)) if family.max_window_layers is not None else 0
    return tuple(SLIDING_ATTENTION if number >= first else FULL_ATTENTION for number in range(layout.n_blocks))


def kind_in(host: Checkpoint, kind: str) -> str:
    """Return the attention kind in the host of a block that has `kind` in its own model."""
    window = backbone_settings(host.layout.text_config, host.layout.text_model_type)["sliding_window"]
    # Of a type without a row, only its own code knows what a kind means.
    keeps = window is not None or not text_family(host.layout.text_model_type).is_known
    return kind if keeps else FULL_ATTENTION


def path_config(host: Checkpoint, kinds: Sequence[str], *, untied: bool) -> dict[str, Any]:
    """Return the host's config.json for blocks of these attention `kinds`, one per hop (see `kind_in`).

    In families with one kind of attention, all blocks have the host's. `untied`: the head is not the embedding.
    """
    config = deepcopy(dict(host.config))
    text = text_part(config, host)
    _set(config, text, block_count_key(text), len(kinds))
    if untied:
        # Some VLMs read it from the whole config, some from the language model's part, some from either.
        config[_TIE] = text[_TIE] = False
    family = text_family(host.layout.text_model_type)
    if not (family.has_attention_kinds if family.is_known else _KINDS in text):
        return config
    if SLIDING_ATTENTION in kinds or _KINDS in text or family.pattern is not None:
        _set(config, text, _KINDS, list(kinds))
    if _FIRST in text:
        # Older runtimes use this; no number describes full attention after sliding attention.
        _set(config, text, _FIRST, list(kinds).index(SLIDING_ATTENTION) if SLIDING_ATTENTION in kinds else len(kinds))
    for key in _PATTERNS:
        if key in text and not _follows_pattern(kinds, int(text[key] or 0)):
            del text[key]
    return config


def _follows_pattern(kinds: Sequence[str], pattern: int) -> bool:
    return pattern > 0 and all(kind == _kind_in_pattern(number, pattern) for number, kind in enumerate(kinds))


def _kind_in_pattern(number: int, pattern: int) -> str:
    return FULL_ATTENTION if (number + 1) % pattern == 0 else SLIDING_ATTENTION


def _set(config: dict[str, Any], text: dict[str, Any], key: str, value: object) -> None:
    """Set a key of the text config, and of the whole config if it has that key."""
    text[key] = value
    if key in config:
        config[key] = value
