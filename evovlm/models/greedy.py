"""Greedy decoding of one batch: rows that have finished leave it, keys and values are never copied to grow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evovlm.models.backbone import Backbone
from evovlm.models.cache import RoomyCache
from evovlm.models.prompt import Prompt, left_padded, left_padded_positions, prefill_inputs

# A batch is packed when this share of its rows has finished: packing copies the keys and values of the others.
_LEAVE_SHARE = 0.1
# Asking a GPU what has finished makes it wait; a CPU knows.
_STEPS_BETWEEN_CHECKS = {"cpu": 1}
_STEPS_BETWEEN_CHECKS_ELSEWHERE = 8
_STEPS_BETWEEN_TEXT_CHECKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When an answer ends: after `max_new_tokens`, at a token of `stop_ids`, or where `is_over` (its tokens) holds.

    `is_over` is asked now and then only; what stands behind the end is for the caller to cut.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    is_over: Callable[[list[int]], bool] | None = None


class GreedyBatch:
    """Prompts that are answered together; call `run` once.

    `window` is the sliding window of the backbone's attention in tokens, None where it sees everything.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompts: Sequence[Prompt],
        *,
        ending: Ending,
        image_token: int | None,
        window: int | None,
    ) -> None:
        self._backbone = backbone
        self._ending = ending
        self._window = window
        ids, mask = left_padded(prompts, device=backbone.device)
        self._length = ids.shape[1]
        self._prefill = prefill_inputs(backbone, ids, prompts, image_token=image_token)
        self._mask = mask.bool()
        # Whom the next token attends to; every token that is generated is attended to.
        self._seen = torch.cat([self._mask, self._mask.new_ones(len(prompts), ending.max_new_tokens)], dim=1)
        self._positions = left_padded_positions(prompts, device=backbone.device)
        self._cache = RoomyCache(n_layers=len(backbone.decoder.layers), room=self._seen.shape[1])
        self._stops = torch.tensor(ending.stop_ids, device=backbone.device)
        self._alive = torch.arange(len(prompts), device=backbone.device)
        self._going = torch.ones(len(prompts), dtype=torch.bool, device=backbone.device)
        self._answers = torch.zeros(len(prompts), ending.max_new_tokens, dtype=torch.long, device=backbone.device)
        self._is_finite = torch.ones((), dtype=torch.bool, device=backbone.device)
        kind = backbone.device.type
        self._steps_between_checks = _STEPS_BETWEEN_CHECKS.get(kind, _STEPS_BETWEEN_CHECKS_ELSEWHERE)

    def run(self) -> list[list[int]]:
        """Return each prompt's answer in tokens, without the stop token.

        Raises FloatingPointError when the model's logits are not finite.
        """
        tokens = self._choose(self._forward(self._prefill, self._prefill_mask()), step=0)
        steps = 1
        while steps < self._ending.max_new_tokens:
            if steps % self._steps_between_checks == 0:
                kept = self._pack(steps)
                if kept is None:
                    break
                tokens = tokens[kept] if len(kept) < len(tokens) else tokens
            self._positions = self._positions[..., -1:] + 1
            states = self._forward({"inputs_embeds": self._backbone.embedding(tokens[:, None])}, self._step_mask(steps))
            tokens = self._choose(states, step=steps)
            steps += 1
        if not bool(self._is_finite):
            raise FloatingPointError("the model's logits are not finite")
        return [self._before_stop(answer) for answer in self._answers[:, :steps].tolist()]

    def _forward(self, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        outputs = self._backbone.decoder(
            **inputs,
            attention_mask=mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        return torch.as_tensor(outputs.last_hidden_state[:, -1])

    def _choose(self, states: Tensor, *, step: int) -> Tensor:
        """Note the likeliest next token of every row in the batch and return it."""
        logits = self._backbone.head(states)
        tokens = logits.argmax(-1)
        # argmax takes a NaN for the largest, so that looking at what it chose finds every NaN and +inf.
        self._is_finite &= torch.isfinite(logits.gather(1, tokens[:, None])).all()
        self._answers[self._alive, step] = tokens
        self._going &= ~torch.isin(tokens, self._stops)
        return torch.as_tensor(tokens)

    def _pack(self, steps: int) -> Tensor | None:
        """Let finished rows leave if there are enough; return the rows that stay, None when nothing is left to do."""
        if not bool(self._is_finite):
            return None
        self._ask_whether_over(steps)
        left = int(self._going.sum())
        if left == 0:
            return None
        if left > (1 - _LEAVE_SHARE) * len(self._going):
            return torch.arange(len(self._going), device=self._going.device)
        kept = self._going.nonzero().squeeze(1)
        self._alive, self._positions, self._seen = self._alive[kept], self._positions[..., kept, :], self._seen[kept]
        self._going = self._going[kept]
        self._cache.keep_rows(kept)
        return kept

    def _ask_whether_over(self, steps: int) -> None:
        is_over = self._ending.is_over
        if is_over is None or steps % _STEPS_BETWEEN_TEXT_CHECKS:
            return
        over = [is_over(answer) for answer in self._answers[self._alive, :steps].tolist()]
        self._going &= ~torch.tensor(over, device=self._going.device)

    def _prefill_mask(self) -> Tensor:
        """Return who attends to whom, bool, shape (rows, 1, length, length); padding sees itself, never nothing."""
        causal = torch.ones(self._length, self._length, dtype=torch.bool, device=self._mask.device).tril()
        if self._window is not None:
            causal = causal.triu(1 - self._window)
        itself = torch.eye(self._length, dtype=torch.bool, device=self._mask.device)
        return ((causal & self._mask[:, None, :]) | itself)[:, None]

    def _step_mask(self, steps: int) -> Tensor:
        """Return whom the newest token attends to, bool, shape (rows, 1, 1, tokens so far)."""
        end = self._length + steps
        if self._window is not None and end > self._window:
            self._seen[:, : end - self._window] = False
        return self._seen[:, None, None, :end]

    def _before_stop(self, answer: list[int]) -> list[int]:
        stops = set(self._ending.stop_ids)
        end = next((place for place, token in enumerate(answer) if token in stops), len(answer))
        return answer[:end]
