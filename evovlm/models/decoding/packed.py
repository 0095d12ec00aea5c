"""Forward passes without padding: the next token of every running answer, and then whole new prompts.

transformers' own modules compute everything except attention, for which `_packed_attention` is called: each prompt
attends to itself and each running answer to its slot. The model sees one text of many tokens, each with its position.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.slots import Continuing, Rule, Slots, masked_attention

_NAME = "evovlm_packed"
# Arguments that do not concern attention or that are handled here; a model that passes any other is not supported.
_UNDERSTOOD = frozenset({"dropout", "position_ids", "use_cache", "is_causal", "cache_position"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entering:
    """A prompt in a pass: its tokens are those from `start` to `stop`, and they are kept in its slot (None: padding).

    The slot already holds the prompt's first `past` tokens.
    """

    start: int
    stop: int
    slot: int | None
    past: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Pass:
    """One forward pass: one token for each continuing answer, those of short prompts, then the other prompts."""

    slots: Slots
    continuing: Continuing | None
    entering: Sequence[Entering]
    layers_seen: int = 0


class NotPackable(Exception):
    """The model's attention needs something that is not supported here."""


@contextmanager
def packed_attention(backbone: Backbone) -> Iterator[None]:
    """Let the backbone's layers attend as described by the `Pass` that their forward pass receives."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _packed_attention)
    config = backbone.decoder.config
    before = config._attn_implementation
    # No mask is registered under this name, so transformers does not make one.
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def forward(backbone: Backbone, inputs: Mapping[str, Any], positions: Tensor, *, this: Pass) -> Tensor:
    """Return the last hidden states, (tokens, hidden), for the decoder's inputs: embeddings (1, tokens, hidden), ...

    Positions are (tokens,), or (axes, tokens) for a model with several axes. Raises NotPackable when the layers do not
    attend as expected.
    """
    outputs = backbone.decoder(
        **inputs,
        position_ids=positions[..., None, :],
        use_cache=False,
        packed_pass=this,
    )
    if this.layers_seen != len(backbone.layers or ()):
        raise NotPackable("its layers do not use transformers' attention interface")
    return torch.as_tensor(outputs.last_hidden_state[0])


def _packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_pass: Pass | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of a layer; query (1, heads, tokens, size), key and value (1, key heads, tokens, size)."""
    if packed_pass is None or attention_mask is not None:
        raise NotPackable("its model does not pass its arguments on to attention")
    unknown = sorted(name for name, given in others.items() if given is not None and name not in _UNDERSTOOD)
    if unknown:
        raise NotPackable(f"its attention needs {', '.join(unknown)}")
    packed_pass.layers_seen += 1
    rule = Rule(scale=query.shape[-1] ** -0.5 if scaling is None else scaling, window=sliding_window, softcap=softcap)
    by_token = (states[0].transpose(0, 1) for states in (query, key, value))
    return attend(packed_pass, int(module.layer_idx), *by_token, rule=rule)[None], None


def attend(this: Pass, layer: int, queries: Tensor, keys: Tensor, values: Tensor, *, rule: Rule) -> Tensor:
    """Return the attention of a layer for all tokens of a pass, and keep their keys and values in their slots.

    Queries and the result are (tokens, heads, size), keys and values (tokens, key heads, size).
    """
    n = 0 if this.continuing is None else len(this.continuing)
    out = queries.new_empty(*queries.shape[:2], values.shape[-1])
    if this.continuing is not None:
        rows = (states[:n].contiguous() for states in (queries, keys, values))
        found = this.slots.attend(layer, *rows, rule=rule, rows=this.continuing)
        if n == len(out):
            return found
        out[:n] = found
    for prompt in this.entering:
        part = slice(prompt.start, prompt.stop)
        if prompt.slot is None:
            out[part] = 0.0
            continue
        own_keys, own_values = keys[part].transpose(0, 1), values[part].transpose(0, 1)
        this.slots.enter(layer, prompt.slot, own_keys, own_values, start=prompt.past)
        if prompt.past:
            own_keys, own_values = this.slots.held(layer, prompt.slot, prompt.past + own_keys.shape[1])
        asked = queries[part].transpose(0, 1)[None]
        out[part] = _prompt_attention(asked, own_keys, own_values, rule).transpose(0, 1)
    return out


def _prompt_attention(queries: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
    """Return the causal attention of a prompt's last tokens to all its tokens, (heads, tokens, size)."""
    n_queries, n_tokens, group = queries.shape[2], keys.shape[1], queries.shape[1] // keys.shape[0]
    seen = None
    if n_queries < n_tokens or (rule.window is not None and n_tokens > rule.window):
        seen = torch.ones(n_queries, n_tokens, dtype=torch.bool, device=queries.device).tril(n_tokens - n_queries)
    if rule.window is not None and seen is not None:
        seen = seen.triu(n_tokens - n_queries + 1 - rule.window)
    if group > 1:
        keys, values = (states.repeat_interleave(group, 0) for states in (keys, values))
    return masked_attention(queries, keys[None], values[None], seen=seen, rule=rule)[0]
