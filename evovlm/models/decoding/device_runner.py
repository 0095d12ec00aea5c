"""Runs a backbone on a GPU: every slot moves on in every step, by a captured graph; choices are read now and then."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from evovlm.models.decoding.packed import Pass, forward
from evovlm.models.decoding.runner import Runner, positions_of
from evovlm.models.decoding.slots import DeviceSlots, Shape
from evovlm.models.prompt import Prompt

_PROMPT_TOKENS_AT_ONCE = 16384
# Reading what was chosen makes a GPU wait for it.
STEPS_BETWEEN_READS = 8
_REACH_STEP = 256


class DeviceRunner(Runner):
    """On a GPU every slot moves on in every step, by a captured graph; what was chosen is read every few steps."""

    def _open(self, shape: Shape, *, room: int) -> None:
        self.prompt_tokens_at_once = _PROMPT_TOKENS_AT_ONCE
        # An answer's end is seen late, so that some tokens too many are kept.
        self._room = room + STEPS_BETWEEN_READS
        self._slots = DeviceSlots(shape, n=self.n_slots + 1, room=self._room)
        self._tokens = torch.zeros(self.n_slots + 1, dtype=torch.long, device=shape.device)
        self._next = torch.zeros_like(self._tokens)
        self._finite = torch.ones((), dtype=torch.bool, device=shape.device)
        self._running: dict[int, int] = {}
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """See Runner."""
        before = list(self._running)
        steps: list[Tensor] = []
        if entering:
            self._enter(entering)
            steps.append(self._tokens.clone())
        for _ in range(STEPS_BETWEEN_READS - len(steps)):
            self._step()
            steps.append(self._tokens.clone())
        if not bool(self._finite):
            raise FloatingPointError("the model's logits are not finite")
        chosen = torch.stack(steps, dim=1).tolist()
        return {slot: chosen[slot] for slot in (*before, *entering)}

    def leave(self, slot: int) -> None:
        """See Runner."""
        del self._running[slot]

    def _enter(self, entering: Mapping[int, Prompt]) -> None:
        """Let prompts in, in one pass with a step of all slots."""
        self._slots.reach = self._reach()
        slots, prompts = list(entering), list(entering.values())
        # An empty slot's step writes behind what it holds: it must not hit what is copied there, nor what is copied.
        self._slots.lengths[[*slots, self._slots.n - 1]] = len(self._shared)
        batch = self._batch(self._tokens, self._next, entering, least=0, slots=self._slots)
        this = Pass(slots=self._slots, n_continuing=self._slots.n, entering=batch.entering)
        states = forward(self._backbone, batch.inputs, batch.positions, this=this)
        self._choose(states[: self._slots.n])
        self._note_prompts(entering)
        tokens, finite = self._likeliest(states[[part.stop - 1 for part in batch.entering]], slots)
        self._finite &= finite
        self._tokens[slots] = tokens
        self._next[slots] = torch.tensor([int(positions_of(prompt).max()) + 1 for prompt in prompts]).to(tokens.device)
        self._slots.lengths[slots] = torch.tensor([len(prompt.ids) for prompt in prompts]).to(tokens.device)
        for slot in self._running:
            self._running[slot] += 1
        self._running.update({slot: len(prompt.ids) for slot, prompt in entering.items()})

    def _step(self) -> None:
        """Move every slot on by one token."""
        reach = self._reach()
        if self._tokens.device.type == "cuda":
            if reach not in self._graphs:
                self._graphs[reach] = self._captured(reach)
            self._graphs[reach].replay()
        else:
            self._slots.reach = reach
            self._move()
        for slot in self._running:
            self._running[slot] += 1

    def _move(self) -> None:
        this = Pass(slots=self._slots, n_continuing=self._slots.n, entering=())
        inputs = {"inputs_embeds": self._backbone.embedding(self._tokens)[None]}
        self._choose(forward(self._backbone, inputs, self._next, this=this))

    def _choose(self, states: Tensor) -> None:
        """Note each slot's next token, in place: a graph's results lie where they lay when it was captured."""
        tokens, finite = self._likeliest(states, slice(None))
        self._finite &= finite
        self._tokens.copy_(tokens)
        self._next += 1
        # An empty slot, which nobody reads, stays where it is when it is full.
        self._slots.lengths.add_(1).clamp_(max=self._room - 1)

    def _reach(self) -> int:
        """Return how far the slots must be read, in whole steps, so that few graphs are needed."""
        longest = max(self._running.values(), default=0) + 1
        return min(self._room, -(-longest // _REACH_STEP) * _REACH_STEP)

    def _captured(self, reach: int) -> torch.cuda.CUDAGraph:
        self._slots.reach = reach
        kept = (self._tokens, self._next, self._slots.lengths, self._finite)
        values = [tensor.clone() for tensor in kept]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # What is chosen and allocated on the first run must not be part of the graph.
            self._move()
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in zip(kept, values, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._move()
        return graph
