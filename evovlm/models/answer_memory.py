"""The memory that answers in progress take, and how many are decoded at once. It needs no torch."""

from collections.abc import Mapping
from typing import Any

from evovlm.resources import memory_bytes

# More rows than this are not faster, and every slot takes memory.
_MOST_ON_CPU, _MOST_ON_GPU = 128, 512
_SHARE = 0.7
"""Of the free memory, answers may take this share."""
_MOST_PACKED = 1 / 8
"""Of all memory, packed copies of a model's weights may take this share."""


def row_bytes(settings: Mapping[str, Any], *, longest: int, number_bytes: int) -> int:
    """Return the memory of a row of `longest` tokens: keys and values, one layer's activations, and float32 logits.

    `settings` are those of a language model, with num_hidden_layers, hidden_size and vocab_size. Others that are left
    out are taken as large as they usually are: attention without shared keys, and feed-forward parts of four times the
    width.
    """
    hidden = int(settings["hidden_size"])
    cached = _cached_numbers(settings)
    widths = settings.get("intermediate_size") or 4 * hidden
    active = 6 * hidden + 3 * (max(widths) if isinstance(widths, (list, tuple)) else widths)
    return int(longest * (cached + active) * number_bytes + 8 * settings["vocab_size"])


def cache_bytes(settings: Mapping[str, Any], *, longest: int, number_bytes: int) -> int:
    """Return the memory of keys and values of `longest` tokens in all layers; `settings` are those of `row_bytes`."""
    return longest * _cached_numbers(settings) * number_bytes


def _cached_numbers(settings: Mapping[str, Any]) -> int:
    heads = settings.get("num_attention_heads") or 1
    groups = settings.get("num_key_value_heads") or heads
    head_size = settings.get("head_dim") or int(settings["hidden_size"]) // heads
    return int(2 * settings["num_hidden_layers"] * groups * head_size)


def rows_at_once(free_bytes: int | None, *, each_bytes: int, on_gpu: bool) -> int:
    """Return how many rows fit into the free memory of a device (None: unknown), up to a useful number, at least 1."""
    most = _MOST_ON_GPU if on_gpu else _MOST_ON_CPU
    return most if free_bytes is None else max(1, min(most, int(_SHARE * free_bytes / each_bytes)))


def packs_weights(weight_bytes: int) -> bool:
    """Return whether a CPU answers with packed copies of weights of this size, in float32.

    It depends on all memory, not on the free part: with packed weights, logits have other last bits, and a run that is
    resumed on the same machine must give the same answers.
    """
    total = memory_bytes()
    return total is not None and weight_bytes <= _MOST_PACKED * total
