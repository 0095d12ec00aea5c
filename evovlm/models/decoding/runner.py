"""Runs a backbone over slots: prompts enter, every running answer gets its next token, answers leave."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.packed import Entering, Pass, forward
from evovlm.models.decoding.slots import Shape, Slots
from evovlm.models.prompt import Prompt, prefill_inputs

NOTHING_SHARED = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What a pass takes: the decoder's inputs over all tokens, their positions, and where each prompt's tokens lie."""

    inputs: Mapping[str, Any]
    positions: Tensor
    entering: Sequence[Entering]


class Runner(ABC):
    """A backbone with `n_slots` slots, for prompts that all begin with the tokens `shared`. Not for two threads.

    `penalty` above 1 makes tokens less likely that stand in the prompt or the answer already.
    """

    n_slots: int
    prompt_tokens_at_once: int

    def __init__(
        self,
        backbone: Backbone,
        shape: Shape,
        *,
        n_slots: int,
        room: int,
        image_token: int | None = None,
        shared: Tensor = NOTHING_SHARED,
        penalty: float = 1.0,
    ) -> None:
        self.n_slots = n_slots
        self._backbone = backbone
        self._image_token = image_token
        self._shared = shared
        self._shared_is_read = False
        self._penalty = penalty
        n_tokens = _n_logits(backbone) if penalty != 1.0 else 0
        # Which tokens each slot has seen; one more slot keeps what all prompts begin with.
        self._seen = torch.zeros(n_slots + 1, n_tokens, dtype=torch.bool, device=backbone.device)
        self._open(shape, room=room)

    @abstractmethod
    def _open(self, shape: Shape, *, room: int) -> None:
        """Make the slots, of `room` tokens each."""

    @abstractmethod
    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """Let prompts enter free slots and every running answer move on; return the new tokens by slot.

        Raises FloatingPointError when the logits are not finite.
        """

    @abstractmethod
    def leave(self, slot: int) -> None:
        """Free a slot."""

    def _likeliest(self, states: Tensor, slots: Sequence[int] | slice) -> tuple[Tensor, Tensor]:
        """Return the likeliest next token of each of these slots' states, noted as seen, and whether all are finite."""
        logits = self._backbone.head(states)
        if self._penalty != 1.0:
            seen = self._seen[slots]
            # As transformers' RepetitionPenaltyLogitsProcessor (Keskar et al. 2019, section 4.1).
            lessened = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = torch.where(seen, lessened, logits)
        tokens = logits.argmax(-1)
        # argmax takes a NaN for the largest, so that looking at what it chose finds every NaN and +inf.
        finite = torch.isfinite(logits.gather(1, tokens[:, None])).all()
        if self._penalty != 1.0:
            self._seen[slots] = seen.scatter(1, tokens[:, None], True)
        return tokens, finite

    def _note_prompts(self, entering: Mapping[int, Prompt]) -> None:
        if self._penalty == 1.0:
            return
        for slot, prompt in entering.items():
            self._seen[slot] = False
            self._seen[slot, prompt.ids.to(self._seen.device)] = True

    def _read_shared(self, slots: Slots) -> None:
        """Read what all prompts begin with into the last slot, which no answer uses, for the others to copy."""
        if self._shared_is_read or not len(self._shared):
            return
        ids = self._shared.to(self._backbone.device)
        whole = Entering(start=0, stop=len(ids), slot=slots.n - 1)
        this = Pass(slots=slots, n_continuing=0, entering=(whole,))
        inputs = {"inputs_embeds": self._backbone.embedding(ids[None])}
        forward(self._backbone, inputs, torch.arange(len(ids), device=ids.device), this=this)
        self._shared_is_read = True

    def _batch(
        self, tokens: Tensor, positions: Tensor, entering: Mapping[int, Prompt], *, least: int, slots: Slots
    ) -> _Batch:
        """Put the running answers' newest tokens, (rows,), and the entering prompts one after another.

        Rows that nobody reads make up the `least` number of tokens.
        """
        past, n_rows = len(self._shared), len(tokens)
        if entering:
            self._read_shared(slots)
        parts: list[Entering] = []
        start = n_rows
        for slot, prompt in entering.items():
            if past:
                slots.copy(source=slots.n - 1, target=slot, n_tokens=past)
            stop = start + len(prompt.ids) - past
            parts.append(Entering(start=start, stop=stop, slot=slot, past=past))
            start = stop
        spare = max(0, least - start)
        if spare:
            parts.append(Entering(start=start, stop=start + spare, slot=None))
        prompts = list(entering.values())
        starts = [positions_of(prompt)[..., past:].to(positions.device) for prompt in prompts]
        return _Batch(
            inputs=self._inputs(tokens, prompts, spare=spare),
            positions=_joined([positions, *starts, positions.new_zeros(spare)]),
            entering=parts,
        )

    def _inputs(self, tokens: Tensor, prompts: Sequence[Prompt], *, spare: int) -> dict[str, Any]:
        embeddings = self._backbone.embedding(tokens)
        padding = embeddings.new_zeros(spare, embeddings.shape[1])
        if not prompts:
            return {"inputs_embeds": torch.cat([embeddings, padding])[None]}
        ids = torch.cat([prompt.ids[len(self._shared) :] for prompt in prompts]).to(tokens.device)
        found = prefill_inputs(self._backbone, ids[None], prompts, image_token=self._image_token)
        inputs = dict(found, inputs_embeds=torch.cat([embeddings, found["inputs_embeds"][0], padding])[None])
        if "visual_pos_masks" in found:
            # A token that a model has written is no place for a picture, whichever it is.
            inputs["visual_pos_masks"] = pad(found["visual_pos_masks"], (len(tokens), spare))
        return inputs


def _n_logits(backbone: Backbone) -> int:
    return len(torch.as_tensor(backbone.head.weight))


def positions_of(prompt: Prompt) -> Tensor:
    """Return the positions of a prompt's tokens, (tokens,), or (axes, tokens) for a model that has several."""
    return torch.arange(len(prompt.ids)) if prompt.positions is None else prompt.positions


def _joined(positions: Sequence[Tensor]) -> Tensor:
    axes = max(each.ndim for each in positions)
    if axes == 1:
        return torch.cat(list(positions))
    n_axes = next(len(each) for each in positions if each.ndim == axes)
    return torch.cat([each if each.ndim == axes else each.expand(n_axes, -1) for each in positions], dim=-1)
