"""Slots that hold the keys and values of answers in progress; the next prompt takes a slot when its answer is done.

On a CPU a compiled step reads each slot exactly as far as it is filled. Elsewhere torch's own attention reads the slots
up to a common length, with a mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from evovlm.devices import device_memory
from evovlm.models.answer_memory import row_bytes, rows_at_once
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.row_attention import NO_SOFTCAP, NO_WINDOW, WIDTH, attend_rows
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, context_tokens

_LONGEST_IN_ROWS = 128


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


@dataclass(slots=True, kw_only=True, eq=False)
class Continuing:
    """The tokens of a pass that attend to a slot: their slots and how many tokens these hold before, int64, (rows,).

    They are one token of each running answer, and those of short prompts (see `Slots.takes_as_rows`). For torch's
    attention, all slots are below `end` and all lengths below `reach`; its masks are made once per pass.
    """

    slots: Tensor
    lengths: Tensor
    end: int
    reach: int
    _seen: dict[int | None, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slots)

    def seen(self, window: int | None) -> Tensor:
        """Return which tokens of each slot its new token attends to, bool, (end, 1, 1, reach)."""
        if window not in self._seen:
            # A slot without an answer sees its first token: a row of a softmax must not be empty.
            lengths = self.lengths.new_zeros(self.end, 1)
            lengths[self.slots] = self.lengths[:, None]
            places = torch.arange(self.reach, device=lengths.device)
            seen = places <= lengths
            if window is not None:
                seen &= places > lengths - window
            self._seen[window] = seen[:, None, None]
        return self._seen[window]


class Slots:
    """`n` slots of `capacity` tokens each.

    Keys and values of a layer are (slots, heads, tokens, size), but the keys of the compiled step: see `attend_rows`.
    That step has both in float32, also for a model in bfloat16.
    """

    def __init__(self, shape: Shape, *, n: int, capacity: int) -> None:
        self.n, self.capacity, self.n_layers = n, capacity, shape.n_layers
        self.has_rows, self._dtype = has_row_step(shape.device, shape.dtype), shape.dtype
        layers = range(shape.n_layers)
        if self.has_rows:
            # Not filled with zeros, so that memory which no answer reaches is never touched.
            blocks = -(-capacity // WIDTH)
            self._keys = [torch.empty(n, shape.heads, blocks, shape.size, WIDTH) for _ in layers]
            self._values = [torch.empty(n, shape.heads, blocks * WIDTH, shape.size) for _ in layers]
        else:
            size = (n, shape.heads, capacity, shape.size)
            # Zeros, because masked values are multiplied by 0, and 0 times undefined memory may be NaN.
            self._keys, self._values = (
                [torch.zeros(size, dtype=shape.dtype, device=shape.device) for _ in layers] for _ in "kv"
            )

    def takes_as_rows(self, n_tokens: int) -> bool:
        """Return whether the tokens of a prompt of this length are rows, like those of running answers.

        That is faster for short prompts; torch's attention, which computes many tokens together, is so for long ones.
        """
        return self.has_rows and n_tokens <= _LONGEST_IN_ROWS

    def enter(self, layer: int, slot: int, keys: Tensor, values: Tensor, *, start: int = 0) -> None:
        """Store keys and values of a prompt's tokens from `start` on, each (heads, tokens, size)."""
        stop = start + keys.shape[1]
        self._values[layer][slot, :, start:stop] = values
        if self.has_rows:
            places = torch.arange(start, stop)
            self._keys[layer][slot][:, places // WIDTH, :, places % WIDTH] = keys.transpose(0, 1).float()
        else:
            self._keys[layer][slot, :, start:stop] = keys

    def held(self, layer: int, slot: int, n_tokens: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a slot's first tokens, each (heads, tokens, size)."""
        keys = self._keys[layer][slot]
        if self.has_rows:
            keys = keys[:, : -(-n_tokens // WIDTH)].transpose(2, 3).flatten(1, 2)
        return keys[:, :n_tokens].to(self._dtype), self._values[layer][slot, :, :n_tokens].to(self._dtype)

    def copy(self, *, source: int, target: int, n_tokens: int) -> None:
        """Copy the first tokens of a slot to another slot."""
        for layer in range(self.n_layers):
            self.enter(layer, target, *self.held(layer, source, n_tokens))

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, rule: Rule, rows: Continuing
    ) -> Tensor:
        """Append a key and a value, (rows, heads, size), per continuing row; return the queries' attention output."""
        if not self.has_rows:
            return self._attend_together(layer, queries, keys, values, rule=rule, rows=rows)
        out = torch.empty_like(queries, dtype=torch.float32)
        attend_rows(
            queries.float().numpy(),
            keys.float().numpy(),
            values.float().numpy(),
            self._keys[layer].numpy(),
            self._values[layer].numpy(),
            rows.slots.numpy(),
            rows.lengths.numpy(),
            np.float32(rule.scale),
            rule.window or NO_WINDOW,
            np.float32(rule.softcap or NO_SOFTCAP),
            out.numpy(),
        )
        return out.to(self._dtype)

    def _attend_together(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, rule: Rule, rows: Continuing
    ) -> Tensor:
        """Attend with torch's own kernel, over all slots up to the last one with an answer."""
        self._keys[layer][rows.slots, :, rows.lengths] = keys
        self._values[layer][rows.slots, :, rows.lengths] = values
        n_rows, n_heads, size = queries.shape
        # Queries that share a key head are placed like the queries of a longer text, so that keys are read once. Each
        # is put where its slot is, because keys and values are too large to be gathered.
        grouped = queries.view(n_rows, keys.shape[1], n_heads // keys.shape[1], size)
        asked = queries.new_zeros(rows.end, *grouped.shape[1:])
        asked[rows.slots] = grouped
        found = masked_attention(
            asked,
            self._keys[layer][: rows.end, :, : rows.reach],
            self._values[layer][: rows.end, :, : rows.reach],
            seen=rows.seen(rule.window),
            rule=rule,
        )
        return found[rows.slots].reshape(n_rows, n_heads, values.shape[-1])


def has_row_step(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the compiled step of a CPU serves a model's slots."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)


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
    config = backbone.decoder.config
    settings = {
        **_settings(config),
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
    }
    dtype = backbone.embedding.weight.dtype
    stored = torch.float32 if has_row_step(backbone.device, dtype) else dtype
    each = row_bytes(settings, longest=longest, number_bytes=stored.itemsize)
    free_bytes, _ = device_memory(backbone.device)
    return rows_at_once(free_bytes, each_bytes=each, on_gpu=backbone.device.type != "cpu")
