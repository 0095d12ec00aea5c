"""Run a backbone over slots: prompts enter, every running answer gets its next token, finished answers leave."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.packed import Entering, Pass, forward
from evovlm.models.decoding.slots import CpuSlots, DeviceSlots, Shape, Slots
from evovlm.models.prompt import Prompt, prefill_inputs

NOTHING_SHARED = torch.zeros(0, dtype=torch.long)

_CPU_PROMPT_TOKENS_AT_ONCE = 2048
_GPU_PROMPT_TOKENS_AT_ONCE = 16384
# A CPU's library computes a matrix product of fewer rows in other ways, with other last bits: with this many, an answer
# does not depend on the answers that are decoded beside it.
_LEAST_ROWS = 16
# A GPU waits while its choices are read.
_STEPS_BETWEEN_READS = 8
_REACH_STEP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """The input of a pass: the decoder's inputs for all tokens, their positions, and the range of each prompt."""

    inputs: Mapping[str, Any]
    positions: Tensor
    entering: Sequence[Entering]


class Runner(ABC):
    """A backbone with `n_slots` slots, for prompts that all begin with the tokens `shared`; not safe for threads.

    `penalty` above 1 makes tokens less likely that occur in the prompt or the answer.
    """

    n_slots: int
    prompt_tokens_at_once: int

    def __init__(
        self,
        backbone: Backbone,
        shape: Shape,
        *,
        n_slots: int,
        capacity: int,
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
        # Which tokens each slot has seen; one more slot holds the shared beginning.
        self._seen = torch.zeros(n_slots + 1, n_tokens, dtype=torch.bool, device=backbone.device)
        self._open(shape, capacity=capacity)

    @abstractmethod
    def _open(self, shape: Shape, *, capacity: int) -> None:
        """Create the slots, of `capacity` tokens each."""

    @abstractmethod
    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """Let prompts enter free slots and extend every running answer; return the new tokens by slot.

        Raises FloatingPointError when the logits are not finite.
        """

    @abstractmethod
    def leave(self, slot: int) -> None:
        """Free a slot."""

    def _likeliest(self, states: Tensor, slots: Sequence[int] | slice) -> tuple[Tensor, Tensor]:
        """Return the likeliest next token for each slot's state (recorded as seen), and whether logits are finite."""
        logits = self._backbone.head(states)
        if self._penalty != 1.0:
            seen = self._seen[slots]
            # As transformers' RepetitionPenaltyLogitsProcessor (Keskar et al. 2019, section 4.1).
            lessened = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = torch.where(seen, lessened, logits)
        tokens = logits.argmax(-1)
        # argmax treats NaN as the largest, so checking the chosen logits finds every NaN and +inf.
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
        """Read the shared beginning into the last slot, which no answer uses, so that other slots can copy it."""
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
        """Join the running answers' newest tokens, (rows,), and the entering prompts.

        The batch is padded to at least `least` tokens with rows whose results are not used.
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
            # A token that the model has generated never stands for a picture, even if it is the image token.
            inputs["visual_pos_masks"] = pad(found["visual_pos_masks"], (len(tokens), spare))
        return inputs


def _n_logits(backbone: Backbone) -> int:
    return len(torch.as_tensor(backbone.head.weight))


def positions_of(prompt: Prompt) -> Tensor:
    """Return the positions of a prompt's tokens, (tokens,), or (axes, tokens) for a model with several axes."""
    return torch.arange(len(prompt.ids)) if prompt.positions is None else prompt.positions


def _joined(positions: Sequence[Tensor]) -> Tensor:
    axes = max(each.ndim for each in positions)
    if axes == 1:
        return torch.cat(list(positions))
    n_axes = next(len(each) for each in positions if each.ndim == axes)
    return torch.cat([each if each.ndim == axes else each.expand(n_axes, -1) for each in positions], dim=-1)


class CpuRunner(Runner):
    """Runs on a CPU: only running answers are computed, and choices are read after each pass."""

    def _open(self, shape: Shape, *, capacity: int) -> None:
        self.prompt_tokens_at_once = _CPU_PROMPT_TOKENS_AT_ONCE
        self._slots = CpuSlots(shape, n=self.n_slots + 1, capacity=capacity)
        # By slot, in the order of the rows: the newest token, its position, and the number of tokens in the slot.
        self._tokens: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._lengths: dict[int, int] = {}

    def advance(self, entering: Mapping[int, Prompt]) -> Mapping[int, Sequence[int]]:
        """See Runner."""
        continuing = list(self._tokens)
        batch = self._batch(
            torch.tensor([self._tokens[slot] for slot in continuing], dtype=torch.long),
            torch.tensor([self._next[slot] for slot in continuing], dtype=torch.long),
            entering,
            least=_LEAST_ROWS,
            slots=self._slots,
        )
        self._slots.rows = np.array(continuing, dtype=np.int64)
        self._slots.lengths = np.array([self._lengths[slot] for slot in continuing], dtype=np.int64)
        this = Pass(slots=self._slots, n_continuing=len(continuing), entering=batch.entering)
        states = forward(self._backbone, batch.inputs, batch.positions, this=this)
        ends = [*range(len(continuing)), *(part.stop - 1 for part in batch.entering if part.slot is not None)]
        self._note_prompts(entering)
        chosen = self._choose(states, ends, slots=[*continuing, *entering])
        for slot in continuing:
            self._next[slot] += 1
            self._lengths[slot] += 1
        for slot, prompt in entering.items():
            self._next[slot] = int(positions_of(prompt).max()) + 1
            self._lengths[slot] = len(prompt.ids)
        self._tokens = dict(zip((*continuing, *entering), chosen, strict=True))
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


class DeviceRunner(Runner):
    """Runs on a GPU: each step extends every slot, by a captured graph; choices are read every few steps."""

    def _open(self, shape: Shape, *, capacity: int) -> None:
        self.prompt_tokens_at_once = _GPU_PROMPT_TOKENS_AT_ONCE
        # The end of an answer is noticed late, so a slot also holds some tokens after it.
        self._capacity = capacity + _STEPS_BETWEEN_READS
        self._slots = DeviceSlots(shape, n=self.n_slots + 1, capacity=self._capacity)
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
        for _ in range(_STEPS_BETWEEN_READS - len(steps)):
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
        """Let prompts enter, in one pass with a step of all slots."""
        self._slots.reach = self._reach()
        slots, prompts = list(entering), list(entering.values())
        # An empty slot's step writes at its end: that must not be within the shared beginning or its copies.
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
        """Extend every slot by one token."""
        reach = self._reach()
        if self._tokens.device.type == "cuda":
            if reach not in self._graphs:
                self._graphs[reach] = self._captured(reach)
            self._graphs[reach].replay()
        else:
            self._slots.reach = reach
            self._run_step()
        for slot in self._running:
            self._running[slot] += 1

    def _run_step(self) -> None:
        this = Pass(slots=self._slots, n_continuing=self._slots.n, entering=())
        inputs = {"inputs_embeds": self._backbone.embedding(self._tokens)[None]}
        self._choose(forward(self._backbone, inputs, self._next, this=this))

    def _choose(self, states: Tensor) -> None:
        """Record each slot's next token in place, because a graph writes to the memory that it was captured with."""
        tokens, finite = self._likeliest(states, slice(None))
        self._finite &= finite
        self._tokens.copy_(tokens)
        self._next += 1
        # An empty slot, whose answer is not read, no longer grows when it is full.
        self._slots.lengths.add_(1).clamp_(max=self._capacity - 1)

    def _reach(self) -> int:
        """Return how far the slots must be read, rounded up so that few graphs are needed."""
        longest = max(self._running.values(), default=0) + 1
        return min(self._capacity, -(-longest // _REACH_STEP) * _REACH_STEP)

    def _captured(self, reach: int) -> torch.cuda.CUDAGraph:
        self._slots.reach = reach
        kept = (self._tokens, self._next, self._slots.lengths, self._finite)
        values = [tensor.clone() for tensor in kept]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # The first run selects kernels and allocates memory, which must not be part of the graph.
            self._run_step()
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in zip(kept, values, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run_step()
        return graph
