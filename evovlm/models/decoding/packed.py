"""Forward passes without padding: the next token of every running answer, and then whole new prompts.

transformers' own modules compute everything except attention, for which `_packed_attention` is called: each prompt
attends to itself and each running answer to its slot. The model sees one text of many tokens, each with its position.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.slots import CpuSlots, DeviceSlots, Rule, Slots, masked_attention, shape_of

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
    """One forward pass: one token for each of `n_continuing` rows, then the entering prompts."""

    slots: Slots
    n_continuing: int
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
    layer, n = int(module.layer_idx), packed_pass.n_continuing
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    if n:
        queries, keys, values = (states[0, :, :n].transpose(0, 1).contiguous() for states in (query, key, value))
        out[:n] = packed_pass.slots.attend(layer, queries, keys, values, rule=rule)
    for prompt in packed_pass.entering:
        part = slice(prompt.start, prompt.stop)
        if prompt.slot is None:
            out[part] = 0.0
            continue
        keys, values = key[0, :, part], value[0, :, part]
        packed_pass.slots.enter(layer, prompt.slot, keys, values, start=prompt.past)
        if prompt.past:
            keys, values = packed_pass.slots.held(layer, prompt.slot, prompt.past + keys.shape[1])
        out[part] = _prompt_attention(query[:, :, part], keys, values, rule).transpose(0, 1)
    return out[None], None


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


_TRIAL_LENGTHS = (3, 7)
_REFUSALS = (TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RuntimeError)
_TOLERANCE = 1e-2
_TRIAL_WINDOW = 4
_WINDOWS = ("sliding_window", "attention_chunk_size")
_exact: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.inference_mode()
def packs_exactly(backbone: Backbone) -> bool:
    """Return whether packed passes give the model's own results; tested once per model on two short texts.

    They do not for models that make positions or masks in another way (ALiBi, sinks, custom attention), that keep
    other states than keys and values (linear attention), or that change the logits after the head.
    """
    if backbone.decoder in _exact:
        return _exact[backbone.decoder]
    try:
        with _small_windows(backbone):
            exact = _computes(_own_states(backbone), backbone)
        wanted = _own_states(backbone)
        if not all(bool(torch.isfinite(states).all()) for states in wanted):
            # Such weights say nothing about the architecture; decoding will report them.
            return True
        exact = exact and _computes(wanted, backbone) and _ends_with_its_head(wanted, backbone)
    except torch.OutOfMemoryError:
        raise
    except (NotPackable, *_REFUSALS):
        # Its forward pass does not take what packed passes give it.
        exact = False
    _exact[backbone.decoder] = exact
    return exact


def _trial_texts(backbone: Backbone) -> list[Tensor]:
    n_rows = backbone.embedding.num_embeddings
    return [torch.arange(length + 1, device=backbone.device) * 7 % n_rows for length in _TRIAL_LENGTHS]


def _own_states(backbone: Backbone) -> list[Tensor]:
    """Return the last two hidden states of each trial text, as the model itself computes them."""
    return [
        backbone.decoder(inputs_embeds=backbone.embedding(text[None]), use_cache=False).last_hidden_state[0, -2:]
        for text in _trial_texts(backbone)
    ]


def _computes(wanted: Sequence[Tensor], backbone: Backbone) -> bool:
    shape = shape_of(backbone)
    kind = CpuSlots if shape.device.type == "cpu" else DeviceSlots
    slots = kind(shape, n=len(_TRIAL_LENGTHS), capacity=max(_TRIAL_LENGTHS) + 1)
    with packed_attention(backbone):
        found = _in_two_passes(backbone, _trial_texts(backbone), slots)
    return all(
        torch.allclose(mine, own, rtol=_TOLERANCE, atol=_TOLERANCE) for mine, own in zip(found, wanted, strict=True)
    )


@contextmanager
def _small_windows(backbone: Backbone) -> Iterator[None]:
    """Make sliding windows and chunks of attention shorter than the trial's texts, in the config and in its modules.

    Some models state a window only in the mask that they make, which packed passes do not have.
    """
    own = [backbone.decoder.config, *backbone.decoder.modules()]
    found = [(each, name, each.__dict__.get(name)) for each in own for name in _WINDOWS]
    changed = [(each, name, value) for each, name, value in found if isinstance(value, int) and value > _TRIAL_WINDOW]
    for each, name, _ in changed:
        setattr(each, name, _TRIAL_WINDOW)
    try:
        yield
    finally:
        for each, name, value in changed:
            setattr(each, name, value)


def _ends_with_its_head(wanted: Sequence[Tensor], backbone: Backbone) -> bool:
    """Return whether the head's logits for the last states order the tokens as the model's own logits do."""
    for states, text in zip(wanted, _trial_texts(backbone), strict=True):
        own = backbone.model(input_ids=text[None], use_cache=False).logits[0, -2:].float()
        order = backbone.head(states).float().argsort(-1)
        rising = own.gather(-1, order).diff(dim=-1)
        if bool((rising < -_TOLERANCE).any()):
            return False
    return True


def _in_two_passes(backbone: Backbone, texts: Sequence[Tensor], slots: CpuSlots | DeviceSlots) -> list[Tensor]:
    """Return each text's last two hidden states: all but its last token in one pass, the last one in another."""
    device = backbone.device
    lengths = [len(text) - 1 for text in texts]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    parts = [Entering(start=starts[slot], stop=ends[slot], slot=slot) for slot in range(len(texts))]
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])
    begun = {"inputs_embeds": backbone.embedding(torch.cat([text[:-1] for text in texts]))[None]}
    first = forward(backbone, begun, positions, this=Pass(slots=slots, n_continuing=0, entering=parts))
    if isinstance(slots, CpuSlots):
        slots.rows, slots.lengths = np.arange(len(texts)), np.array(lengths)
    else:
        slots.lengths = torch.tensor(lengths, device=device)
    last = forward(
        backbone,
        {"inputs_embeds": backbone.embedding(torch.stack([text[-1] for text in texts]))[None]},
        torch.tensor(lengths, device=device),
        this=Pass(slots=slots, n_continuing=len(texts), entering=()),
    )
    return [torch.stack([first[end - 1], last[row]]) for row, end in enumerate(ends)]
