"""The likelihood of given continuations under a model: sums of log-probabilities, in padded batches."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evovlm.models.loading import LoadedModel

# The logits are the largest tensor of a batch: this many float32 numbers are 1 GiB.
_MOST_LOGITS = 2**28
_MOST_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Token ids of a `context` and of the `tokens` that follow it, at least one each."""

    context: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """The natural logarithm of a continuation's probability, and whether greedy decoding would generate it."""

    log_probability: float
    is_greedy: bool


@torch.inference_mode()
def likelihoods(loaded: LoadedModel, continuations: Sequence[Continuation]) -> tuple[Likelihood, ...]:
    """Return the likelihood of each continuation after its context, in order.

    Raises ValueError for an empty context or continuation, FloatingPointError when the model's logits are not finite.
    """
    if any(not each.context or not each.tokens for each in continuations):
        raise ValueError("a likelihood needs a context and a continuation of at least one token each")
    found: dict[int, Likelihood] = {}
    for rows in _batches(continuations, n_tokens=loaded.model.get_output_embeddings().weight.shape[0]):
        found.update(zip(rows, _batch(loaded, [continuations[row] for row in rows]), strict=True))
    return tuple(found[row] for row in range(len(continuations)))


def _batches(continuations: Sequence[Continuation], *, n_tokens: int) -> Iterator[list[int]]:
    """Yield the rows in batches of similar length whose logits fit into memory."""
    rows: list[int] = []
    for row in sorted(range(len(continuations)), key=lambda row: _length(continuations[row])):
        candidate = [*rows, row]
        first = min(len(continuations[each].context) for each in candidate)
        logits = len(candidate) * (_length(continuations[row]) - first + 1) * n_tokens
        if rows and (logits > _MOST_LOGITS or len(candidate) > _MOST_ROWS):
            yield rows
            candidate = [row]
        rows = candidate
    if rows:
        yield rows


def _length(continuation: Continuation) -> int:
    return len(continuation.context) + len(continuation.tokens)


def _batch(loaded: LoadedModel, batch: Sequence[Continuation]) -> list[Likelihood]:
    longest = max(map(_length, batch))
    # Padded on the right, where no relevant token attends to it; the model makes positions and masks itself.
    ids = torch.zeros(len(batch), longest - 1, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, each in enumerate(batch):
        read = (*each.context, *each.tokens)[:-1]
        ids[row, : len(read)] = torch.tensor(read)
        mask[row, : len(read)] = 1
    first = min(len(each.context) for each in batch) - 1
    outputs: Any = loaded.model(
        input_ids=ids.to(loaded.device),
        attention_mask=mask.to(loaded.device),
        logits_to_keep=torch.arange(first, longest - 1, device=loaded.device),
        use_cache=False,
    )
    return [_likelihood(outputs.logits[row], each, first=first) for row, each in enumerate(batch)]


def _likelihood(logits: Tensor, continuation: Continuation, *, first: int) -> Likelihood:
    """Read one row's logits, shape (positions from `first` on, tokens)."""
    start = len(continuation.context) - 1 - first
    predicted = logits[start : start + len(continuation.tokens)].float()
    tokens = torch.tensor(continuation.tokens, device=logits.device)
    chosen = torch.log_softmax(predicted, dim=-1).gather(1, tokens[:, None])
    # On the CPU, as MPS has no float64.
    total = float(chosen.cpu().double().sum())
    if not math.isfinite(total):
        raise FloatingPointError("the model's logits are not finite")
    return Likelihood(log_probability=total, is_greedy=bool((predicted.argmax(-1) == tokens).all()))
