"""Runs a backbone over slots: prompts enter, every running answer gets its next token, answers leave."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from evovlm.models.backbone import Backbone
from evovlm.models.packed import Entering, Pass, forward
from evovlm.models.prompt import Prompt
from evovlm.models.slots import CpuSlots, DeviceSlots, Shape

# A matrix product of fewer rows takes other paths through a CPU's library, with other last bits: with so many, an
# answer does not depend on what is decoded beside it.
_LEAST_ROWS = 16
_PROMPT_TOKENS_ON_CPU = 2048
_PROMPT_TOKENS_ON_GPU = 16384
# Reading what was chosen makes a GPU wait for it.
STEPS_BETWEEN_READS = 8
_REACH_STEP = 256


class Runner(ABC):
    """A backbone with `n_slots` slots. Not for two threads at once."""

    n_slots: int
    prompt_tokens_at_once: int

    def __init__(self, backbone: Backbone, *, image_token: int | None) -> None:
        self._backbone = backbone
        self._image_token = image_token

    @abstractmethod
    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """Let prompts enter free slots and every running answer move on; return the new tokens by slot.

        Raises FloatingPointError when the logits are not finite.
        """

    @abstractmethod
    def leave(self, slot: int) -> None:
        """Free a slot."""

    def _embed(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """Return the input embeddings of each prompt, (tokens, hidden), with its pictures' features in place."""
        ids = [prompt.ids.to(self._backbone.device) for prompt in prompts]
        found = list(self._backbone.embedding(torch.cat(ids)).split([len(row) for row in ids])) if ids else []
        for number, prompt in enumerate(prompts):
            if prompt.features is not None:
                rows = found[number].clone()
                rows[ids[number] == self._image_token] = prompt.features.to(rows.device, rows.dtype)
                found[number] = rows
        return found

    def _positions(self, prompt: Prompt) -> Tensor:
        return torch.arange(len(prompt.ids))


class CpuRunner(Runner):
    """On a CPU only running answers are computed, and what was chosen is read at once."""

    def __init__(self, backbone: Backbone, shape: Shape, *, n_slots: int, room: int, image_token: int | None) -> None:
        super().__init__(backbone, image_token=image_token)
        self.n_slots, self.prompt_tokens_at_once = n_slots, _PROMPT_TOKENS_ON_CPU
        self._slots = CpuSlots(shape, n=n_slots, room=room)
        # By slot, in the order of the rows: the newest token, its position, and how many tokens the slot holds.
        self._tokens: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._lengths: dict[int, int] = {}

    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """See Runner."""
        going = list(self._tokens)
        self._slots.rows = np.array(going, dtype=np.int64)
        self._slots.lengths = np.array([self._lengths[slot] for slot in going], dtype=np.int64)
        prompts = list(entering.values())
        embeddings = [self._backbone.embedding(torch.tensor([self._tokens[slot] for slot in going], dtype=torch.long))]
        embeddings += self._embed(prompts)
        positions = [torch.tensor([self._next[slot] for slot in going], dtype=torch.long)]
        positions += [self._positions(prompt) for prompt in prompts]
        parts = _segments(len(going), entering)
        n_tokens = len(going) + sum(len(prompt.ids) for prompt in prompts)
        if n_tokens < _LEAST_ROWS:
            parts.append(Entering(start=n_tokens, stop=_LEAST_ROWS, slot=None))
            embeddings.append(embeddings[0].new_zeros(_LEAST_ROWS - n_tokens, embeddings[0].shape[1]))
            positions.append(torch.zeros(_LEAST_ROWS - n_tokens, dtype=torch.long))
        this = Pass(slots=self._slots, n_continuing=len(going), entering=parts)
        states = forward(self._backbone, torch.cat(embeddings), torch.cat(positions, dim=-1), this=this)
        ends = [*range(len(going)), *(part.stop - 1 for part in parts if part.slot is not None)]
        chosen = self._choose(states, ends)
        for slot in going:
            self._next[slot] += 1
            self._lengths[slot] += 1
        for slot, prompt in entering.items():
            self._next[slot] = int(self._positions(prompt).max()) + 1
            self._lengths[slot] = len(prompt.ids)
        self._tokens = dict(zip((*going, *entering), chosen, strict=True))
        return {slot: (token,) for slot, token in self._tokens.items()}

    def _choose(self, states: Tensor, ends: list[int]) -> list[int]:
        rows = ends + ends[-1:] * (_LEAST_ROWS - len(ends))
        tokens, finite = likeliest(self._backbone.head(states[rows]))
        if not bool(finite):
            raise FloatingPointError("the model's logits are not finite")
        chosen: list[int] = tokens[: len(ends)].tolist()
        return chosen

    def leave(self, slot: int) -> None:
        """See Runner."""
        for kept in (self._tokens, self._next, self._lengths):
            del kept[slot]


class DeviceRunner(Runner):
    """On a GPU every slot moves on in every step, by a captured graph; what was chosen is read every few steps."""

    def __init__(self, backbone: Backbone, shape: Shape, *, n_slots: int, room: int, image_token: int | None) -> None:
        super().__init__(backbone, image_token=image_token)
        self.n_slots, self.prompt_tokens_at_once = n_slots, _PROMPT_TOKENS_ON_GPU
        # An answer's end is seen late, so that some tokens too many are kept.
        self._room = room + STEPS_BETWEEN_READS
        self._slots = DeviceSlots(shape, n=n_slots, room=self._room)
        self._tokens = torch.zeros(n_slots, dtype=torch.long, device=shape.device)
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
        prompts, slots = list(entering.values()), list(entering)
        parts = _segments(self.n_slots, entering)
        embeddings = [self._backbone.embedding(self._tokens), *self._embed(prompts)]
        starts = [self._positions(prompt).to(self._tokens.device) for prompt in prompts]
        this = Pass(slots=self._slots, n_continuing=self.n_slots, entering=parts)
        states = forward(self._backbone, torch.cat(embeddings), torch.cat([self._next, *starts], dim=-1), this=this)
        self._choose(states[: self.n_slots])
        tokens, finite = likeliest(self._backbone.head(states[[part.stop - 1 for part in parts]]))
        self._finite &= finite
        self._tokens[slots] = tokens
        self._next[slots] = torch.tensor([int(row.max()) + 1 for row in starts], device=tokens.device)
        self._slots.lengths[slots] = torch.tensor([len(prompt.ids) for prompt in prompts], device=tokens.device)
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
        this = Pass(slots=self._slots, n_continuing=self.n_slots, entering=())
        self._choose(forward(self._backbone, self._backbone.embedding(self._tokens), self._next, this=this))

    def _choose(self, states: Tensor) -> None:
        """Note each slot's next token, in place: a graph's results lie where they lay when it was captured."""
        tokens, finite = likeliest(self._backbone.head(states))
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


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest token of each row of logits, and whether all of these logits are finite."""
    tokens = logits.argmax(-1)
    # argmax takes a NaN for the largest, so that looking at what it chose finds every NaN and +inf.
    return tokens, torch.isfinite(logits.gather(1, tokens[:, None])).all()


def _segments(start: int, entering: Mapping[int, Prompt]) -> list[Entering]:
    parts: list[Entering] = []
    for slot, prompt in entering.items():
        stop = start + len(prompt.ids)
        parts.append(Entering(start=start, stop=stop, slot=slot))
        start = stop
    return parts
