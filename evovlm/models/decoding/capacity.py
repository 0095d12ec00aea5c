"""How many answers a device has room for at once."""

from collections.abc import Sequence
from typing import Any

import torch

from evovlm.models.backbone import Backbone
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, context_tokens
from evovlm.resources import available_memory_bytes

# More rows than this gain nothing: products are as fast as they get, and every slot takes memory.
_SLOTS_ON_CPU = 96
_SLOTS_ON_GPU = 512
_MEMORY_SHARE = 0.7


def answer_limits(loaded: LoadedModel, prompts: Sequence[Prompt], *, max_new_tokens: int) -> list[int]:
    """Return how many tokens each answer may have: `max_new_tokens`, or as many as the context leaves, at least 1.

    Past its context a model has not been trained, and one that scales its positions there answers otherwise from the
    first token on.
    """
    context = context_tokens(loaded)
    if context is None:
        return [max_new_tokens] * len(prompts)
    return [max(1, min(max_new_tokens, context - len(prompt.ids))) for prompt in prompts]


def most_tokens(prompts: Sequence[Prompt], limits: Sequence[int]) -> int:
    """Return how many tokens the longest prompt and its answer of at most `limits` tokens have, 0 for no prompts."""
    return max((len(prompt.ids) + limit for prompt, limit in zip(prompts, limits, strict=True)), default=0)


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
