"""Slots that hold the keys and values of answers in progress; the next prompt takes a slot when its answer is done.

On a CPU a slot is read exactly as far as it is filled; on a GPU all slots are read up to a common length with a mask,
so that every step has the same shapes and can be replayed as a captured graph.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.row_attention import NO_SOFTCAP, NO_WINDOW, Indices, attend_rows
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, context_tokens
from evovlm.resources import available_memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What each layer keeps of a token: a key and a value of `size` numbers for each of `heads`."""

    n_layers: int
    heads: int
    size: int
    dtype: torch.dtype
    device: torch.device


def shape_of(backbone: Backbone) -> Shape:
    """Return the shape of the keys and values of a backbone."""
    config = _settings(backbone.decoder.config)
    heads = config["num_attention_heads"]
    return Shape(
        n_layers=len(backbone.layers or ()),
        heads=config.get("num_key_value_heads") or heads,
        size=config.get("head_dim") or config["hidden_size"] // heads,
        dtype=backbone.embedding.weight.dtype,
        device=backbone.device,
    )


def _settings(config: Any) -> Mapping[str, Any]:
    """Return a config's settings under the names that all models share, also those that differ by layer (Gemma 4)."""
    own: dict[str, Any] = config.to_dict()
    return own | {shared: own[name] for shared, name in type(config).attribute_map.items() if name in own}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a layer attends: the factor on the products, the sliding window in tokens, the soft cap on the scores."""

    scale: float
    window: int | None = None
    softcap: float | None = None


class Slots(ABC):
    """`n` slots of `capacity` tokens each."""

    n: int
    capacity: int
    n_layers: int

    @abstractmethod
    def enter(self, layer: int, slot: int, keys: Tensor, values: Tensor, *, start: int = 0) -> None:
        """Store keys and values of a prompt's tokens from `start` on, each (heads, tokens, size)."""

    @abstractmethod
    def held(self, layer: int, slot: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a slot's first tokens, each (heads, tokens, size)."""

    def copy(self, *, source: int, target: int, n_tokens: int) -> None:
        """Copy the first tokens of a slot to another slot."""
        for layer in range(self.n_layers):
            self.enter(layer, target, *self.held(layer, source, n_tokens))

    @abstractmethod
    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, rule: Rule) -> Tensor:
        """Append a key and a value, (rows, heads, size), per continuing row; return the queries' attention output."""


class CpuSlots(Slots):
    """Slots on a CPU, in float32. `rows` gives the continuing slots, `lengths` how many tokens each holds."""

    def __init__(self, shape: Shape, *, n: int, capacity: int) -> None:
        self.n, self.capacity, self.n_layers = n, capacity, shape.n_layers
        self.rows: Indices = np.empty(0, np.int64)
        self.lengths: Indices = np.empty(0, np.int64)
        # Not filled with zeros, so that memory which no answer reaches is never touched.
        self._keys = [torch.empty(n, shape.heads, shape.size, capacity) for _ in range(shape.n_layers)]
        self._values = [torch.empty(n, shape.heads, capacity, shape.size) for _ in range(shape.n_layers)]

    def enter(self, layer: int, slot: int, keys: Tensor, values: Tensor, *, start: int = 0) -> None:
        """See Slots."""
        stop = start + keys.shape[1]
        self._keys[layer][slot, :, :, start:stop] = keys.transpose(1, 2)
        self._values[layer][slot, :, start:stop] = values

    def held(self, layer: int, slot: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        """See Slots."""
        return self._keys[layer][slot, :, :, :n_tokens].transpose(1, 2), self._values[layer][slot, :, :n_tokens]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, rule: Rule) -> Tensor:
        """See Slots."""
        out = torch.empty_like(queries)
        attend_rows(
            queries.numpy(),
            keys.numpy(),
            values.numpy(),
            self._keys[layer].numpy(),
            self._values[layer].numpy(),
            self.rows,
            self.lengths,
            np.float32(rule.scale),
            rule.window or NO_WINDOW,
            np.float32(rule.softcap or NO_SOFTCAP),
            out.numpy(),
        )
        return out


class DeviceSlots(Slots):
    """Slots on a GPU: each step extends every slot, even empty ones. `lengths`, int64, counts the tokens of each.

    `reach` is how far the slots are read; it must exceed the length of every running answer.
    """

    def __init__(self, shape: Shape, *, n: int, capacity: int) -> None:
        self.n, self.capacity, self.n_layers = n, capacity, shape.n_layers
        self.reach = capacity
        self.lengths = torch.zeros(n, dtype=torch.long, device=shape.device)
        self._every = torch.arange(n, device=shape.device)
        self._places = torch.arange(capacity, device=shape.device)
        size = (n, shape.heads, capacity, shape.size)
        # Zeros, because masked values are multiplied by 0, and 0 times undefined memory may be NaN.
        self._keys = [torch.zeros(size, dtype=shape.dtype, device=shape.device) for _ in range(shape.n_layers)]
        self._values = [torch.zeros(size, dtype=shape.dtype, device=shape.device) for _ in range(shape.n_layers)]

    def enter(self, layer: int, slot: int, keys: Tensor, values: Tensor, *, start: int = 0) -> None:
        """See Slots."""
        stop = start + keys.shape[1]
        self._keys[layer][slot, :, start:stop] = keys
        self._values[layer][slot, :, start:stop] = values

    def held(self, layer: int, slot: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        """See Slots."""
        return self._keys[layer][slot, :, :n_tokens], self._values[layer][slot, :, :n_tokens]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, rule: Rule) -> Tensor:
        """See Slots."""
        self._keys[layer][self._every, :, self.lengths] = keys
        self._values[layer][self._every, :, self.lengths] = values
        rows, n_heads, size = queries.shape
        # Queries that share a key head are placed like the queries of a longer text, so that keys are read once.
        grouped = queries.view(rows, keys.shape[1], n_heads // keys.shape[1], size)
        places = self._places[: self.reach]
        seen = places <= self.lengths[:, None]
        if rule.window is not None:
            seen &= places > self.lengths[:, None] - rule.window
        found = masked_attention(
            grouped,
            self._keys[layer][:, :, : self.reach],
            self._values[layer][:, :, : self.reach],
            seen=seen[:, None, None],
            rule=rule,
        )
        return found.reshape(rows, n_heads, size)


def masked_attention(queries: Tensor, keys: Tensor, values: Tensor, *, seen: Tensor | None, rule: Rule) -> Tensor:
    """Return attention over `keys` where `seen` (bool) holds, causal where it is None; shapes (..., tokens, size)."""
    if rule.softcap is None:
        return scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, is_causal=seen is None, scale=rule.scale
        )
    scores = rule.softcap * torch.tanh(queries @ keys.transpose(-1, -2) * rule.scale / rule.softcap)
    if seen is None:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype) @ values


# More rows than this are not faster, and every slot takes memory.
_SLOTS_ON_CPU = 96
_SLOTS_ON_GPU = 512
_MEMORY_SHARE = 0.7


def answer_limits(loaded: LoadedModel, prompts: Sequence[Prompt], *, max_new_tokens: int) -> list[int]:
    """Return how many tokens each answer may have: `max_new_tokens`, or what is left of the context, at least 1.

    A model is not trained beyond its context, and one that scales its positions for longer texts gives other answers
    from the first token on.
    """
    context = context_tokens(loaded)
    if context is None:
        return [max_new_tokens] * len(prompts)
    return [max(1, min(max_new_tokens, context - len(prompt.ids))) for prompt in prompts]


def most_tokens(prompts: Sequence[Prompt], limits: Sequence[int]) -> int:
    """Return the largest number of tokens of a prompt and its answer of at most `limits` tokens; 0 without prompts."""
    return max((len(prompt.ids) + limit for prompt, limit in zip(prompts, limits, strict=True)), default=0)


def slots_at_once(backbone: Backbone, *, longest: int) -> int:
    """Return how many answers of `longest` tokens, prompt included, fit on the device, up to a useful number."""
    row_bytes = _row_bytes(backbone.decoder.config, longest, backbone.embedding.weight.element_size())
    is_gpu = backbone.device.type == "cuda"
    most = _SLOTS_ON_GPU if is_gpu else _SLOTS_ON_CPU
    free_bytes = torch.cuda.mem_get_info(backbone.device)[0] if is_gpu else available_memory_bytes()
    return most if free_bytes is None else max(1, min(most, int(_MEMORY_SHARE * free_bytes / row_bytes)))


def _row_bytes(config: Any, longest: int, number_bytes: int) -> int:
    """Return the memory of a row: keys and values of all layers, one layer's activations, and float32 logits."""
    settings = _settings(config)
    hidden = int(config.hidden_size)
    # Settings that a config leaves out are taken as large as they usually are: attention without shared keys, and
    # feed-forward parts of four times the width.
    heads = settings.get("num_attention_heads") or 1
    groups = settings.get("num_key_value_heads") or heads
    head_size = settings.get("head_dim") or hidden // heads
    cached = 2 * config.num_hidden_layers * groups * head_size
    widths = settings.get("intermediate_size") or 4 * hidden
    active = 6 * hidden + 3 * (max(widths) if isinstance(widths, (list, tuple)) else widths)
    return int(longest * (cached + active) * number_bytes + 8 * config.vocab_size)
