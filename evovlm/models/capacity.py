"""How many answers a device has room for at once."""

from collections.abc import Sequence
from typing import Any

import torch

from evovlm.models.backbone import Backbone
from evovlm.models.prompt import Prompt
from evovlm.room import available_memory_bytes

# More rows than this gain nothing: products are as fast as they get, and every slot takes memory.
_SLOTS_ON_CPU = 96
_SLOTS_ON_GPU = 512
_MEMORY_SHARE = 0.7


def longest_prompt(prompts: Sequence[Prompt]) -> int:
    """Return the length of the longest of the prompts in tokens, 0 for none."""
    return max((len(prompt.ids) for prompt in prompts), default=0)


def slots_at_once(backbone: Backbone, *, longest: int) -> int:
    """Return how many answers of `longest` tokens, prompt and all, the device has room for, within what is of use."""
    row_bytes = _row_bytes(backbone.decoder.config, longest, backbone.embedding.weight.element_size())
    is_gpu = backbone.device.type == "cuda"
    most = _SLOTS_ON_GPU if is_gpu else _SLOTS_ON_CPU
    free_bytes = torch.cuda.mem_get_info(backbone.device)[0] if is_gpu else available_memory_bytes()
    return most if free_bytes is None else max(1, min(most, int(_MEMORY_SHARE * free_bytes / row_bytes)))


def _row_bytes(config: Any, longest: int, number_bytes: int) -> int:
    """Return what a row takes: keys and values of all layers, one layer's activations, and its logits in float32."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    active = 6 * config.hidden_size + 3 * config.intermediate_size
    return int(longest * (cached + active) * number_bytes + 8 * config.vocab_size)
