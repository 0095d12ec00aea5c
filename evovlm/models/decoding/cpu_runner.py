"""Runs a backbone on a CPU: only running answers are computed, and what was chosen is read at once."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evovlm.models.decoding.packed import Pass, forward
from evovlm.models.decoding.runner import Runner, positions_of
from evovlm.models.decoding.slots import CpuSlots, Shape
from evovlm.models.prompt import Prompt

# A matrix product of fewer rows takes other paths through a CPU's library, with other last bits: with so many, an
# answer does not depend on what is decoded beside it.
_LEAST_ROWS = 16
_PROMPT_TOKENS_AT_ONCE = 2048


class CpuRunner(Runner):
    """On a CPU only running answers are computed, and what was chosen is read at once."""

    def _open(self, shape: Shape, *, room: int) -> None:
        self.prompt_tokens_at_once = _PROMPT_TOKENS_AT_ONCE
        self._slots = CpuSlots(shape, n=self.n_slots + 1, room=room)
        # By slot, in the order of the rows: the newest token, its position, and how many tokens the slot holds.
        self._tokens: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._lengths: dict[int, int] = {}

    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """See Runner."""
        going = list(self._tokens)
        batch = self._batch(
            torch.tensor([self._tokens[slot] for slot in going], dtype=torch.long),
            torch.tensor([self._next[slot] for slot in going], dtype=torch.long),
            entering,
            least=_LEAST_ROWS,
            slots=self._slots,
        )
        self._slots.rows = np.array(going, dtype=np.int64)
        self._slots.lengths = np.array([self._lengths[slot] for slot in going], dtype=np.int64)
        this = Pass(slots=self._slots, n_continuing=len(going), entering=batch.entering)
        states = forward(self._backbone, batch.inputs, batch.positions, this=this)
        ends = [*range(len(going)), *(part.stop - 1 for part in batch.entering if part.slot is not None)]
        self._note_prompts(entering)
        chosen = self._choose(states, ends, slots=[*going, *entering])
        for slot in going:
            self._next[slot] += 1
            self._lengths[slot] += 1
        for slot, prompt in entering.items():
            self._next[slot] = int(positions_of(prompt).max()) + 1
            self._lengths[slot] = len(prompt.ids)
        self._tokens = dict(zip((*going, *entering), chosen, strict=True))
        return {slot: (token,) for slot, token in self._tokens.items()}

    def _choose(self, states: Tensor, ends: list[int], *, slots: list[int]) -> list[int]:
        spare = _LEAST_ROWS - len(ends)
        tokens, finite = self._likeliest(states[ends + ends[-1:] * spare], slots + slots[-1:] * spare)
        if not bool(finite):
            raise FloatingPointError("the model's logits are not finite")
        chosen: list[int] = tokens[: len(ends)].tolist()
        return chosen

    def leave(self, slot: int) -> None:
        """See Runner."""
        for kept in (self._tokens, self._next, self._lengths):
            del kept[slot]
