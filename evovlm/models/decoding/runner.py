"""Run a backbone over slots: prompts enter, every running answer gets its next token, finished answers leave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.draws import Draw, Draws
from evovlm.models.decoding.packed import Entering, Pass, forward
from evovlm.models.decoding.plain import PlainBlocks
from evovlm.models.decoding.slots import Continuing, Shape, Slots
from evovlm.models.prompt import Prompt, prefill_inputs
from evovlm.models.threads import SMALL_HIDDEN_SIZE

NOTHING_SHARED = torch.zeros(0, dtype=torch.long)
NOTHING_GUESSED: Mapping[int, Sequence[int]] = {}

# What a pass computes for this number of tokens stays in a CPU's caches.
_CPU_PROMPT_TOKENS_AT_ONCE = 512
_GPU_PROMPT_TOKENS_AT_ONCE = 16384
# Lengths up to which torch's attention reads the slots; its kernels like such numbers.
_REACH_STEP = 64


@dataclass(slots=True, kw_only=True)
class _Running:
    """An answer in progress: its newest token, the position of this, and how many tokens its slot holds before it.

    `guessed` are tokens that may follow the newest one.
    """

    token: int
    position: int
    length: int
    guessed: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """The input of a pass: the decoder's inputs for all tokens, their positions, the rows of each prompt, and the row
    whose state gives each slot's next token, (slots,)."""

    inputs: Mapping[str, Any]
    positions: Tensor
    continuing: Continuing | None
    entering: Sequence[Entering]
    ends: Tensor
    slots: Tensor


class Runner:
    """A backbone with `n_slots` slots, for prompts that all begin with the tokens `shared`; not safe for threads.

    Passes have at least `least_rows` rows, with rows whose results are not used where needed. `blocks` compute what the
    backbone's own forward pass does, to the same bits. `penalty` above 1 makes tokens less likely that occur in the
    prompt or the answer. `draw` says how tokens are drawn (None: the likeliest are taken).
    """

    def __init__(
        self,
        backbone: Backbone,
        shape: Shape,
        *,
        n_slots: int,
        capacity: int,
        least_rows: int = 1,
        blocks: PlainBlocks | None = None,
        image_token: int | None = None,
        shared: Tensor = NOTHING_SHARED,
        penalty: float = 1.0,
        draw: Draw | None = None,
    ) -> None:
        self.n_slots = n_slots
        is_cpu = backbone.device.type == "cpu"
        self.prompt_tokens_at_once = _CPU_PROMPT_TOKENS_AT_ONCE if is_cpu else _GPU_PROMPT_TOKENS_AT_ONCE
        self._backbone = backbone
        self._least_rows = least_rows
        self._blocks = blocks
        self._image_token = image_token
        self._shared = shared
        self._shared_is_read = False
        self._penalty = penalty
        # One more slot holds the shared beginning.
        self._slots = Slots(shape, n=n_slots + 1, capacity=capacity)
        self._draws = None if draw is None else Draws(draw, n_slots=n_slots, device=backbone.device)
        n_tokens = _n_logits(backbone) if penalty != 1.0 else 0
        # Which tokens each slot has seen.
        self._seen = torch.zeros(n_slots, n_tokens, dtype=torch.bool, device=backbone.device)
        # By slot, in the order of the rows.
        self._running: dict[int, _Running] = {}

    @property
    def takes_guesses(self) -> bool:
        """Whether a pass may extend an answer by several tokens: where the likeliest ones are taken, on a CPU.

        The model must be small, so that a pass costs more than the rows of wrong guesses.
        """
        is_small = self._backbone.embedding.embedding_dim < SMALL_HIDDEN_SIZE
        return self._slots.has_rows and is_small and self._draws is None and self._penalty == 1.0

    def advance(
        self, entering: Mapping[int, Prompt], guessed: Mapping[int, Sequence[int]] = NOTHING_GUESSED
    ) -> Mapping[int, Sequence[int]]:
        """Let prompts enter free slots and extend every running answer; return the new tokens by slot.

        `guessed` has tokens that may come next, by slot: an answer gets one token more for each right one. Raises
        FloatingPointError when the logits are not finite.
        """
        # Prompts whose tokens are rows come first, beside those of the running answers.
        entering = dict(sorted(entering.items(), key=lambda each: not self._slots.takes_as_rows(len(each[1].ids))))
        for slot, running in self._running.items():
            running.guessed = guessed.get(slot, ())
        found = self.step(entering).tolist()
        if not found[-1]:
            raise FloatingPointError("the model's logits are not finite")
        new: dict[int, Sequence[int]] = {}
        start = 0
        for slot, running in self._running.items():
            tokens = _right(found[start:], running.guessed)
            start += 1 + len(running.guessed)
            running.token = tokens[-1]
            running.position += len(tokens)
            running.length += len(tokens)
            new[slot] = tokens
        for (slot, prompt), token in zip(entering.items(), found[start:-1], strict=True):
            position = int(positions_of(prompt).max()) + 1
            self._running[slot] = _Running(token=token, position=position, length=len(prompt.ids))
            new[slot] = (token,)
        return new

    def leave(self, slot: int) -> None:
        """Free a slot."""
        del self._running[slot]

    def step(self, entering: Mapping[int, Prompt]) -> Tensor:
        """Run one pass and return the next token of each running answer and each entering prompt, int64.

        An answer with guessed tokens has those that follow each of them behind its next one.

        At the end of the tensor is 1 if all logits are finite, else 0. Nothing in a pass waits for the device.
        """
        batch = self._batch(entering)
        self._note_prompts(entering)
        spare = max(0, self._least_rows - len(batch.ends))
        ends = torch.cat([batch.ends, batch.ends[-1:].expand(spare)])
        slots = torch.cat([batch.slots, batch.slots[-1:].expand(spare)])
        this = Pass(slots=self._slots, continuing=batch.continuing, entering=batch.entering)
        tokens, finite = self._likeliest(self._states(batch.inputs, batch.positions, this=this, ends=ends), slots)
        return torch.cat([tokens[: len(batch.ends)], finite[None].long()])

    def _states(self, inputs: Mapping[str, Any], positions: Tensor, *, this: Pass, ends: Tensor) -> Tensor:
        """Return the last hidden states of the tokens numbered `ends`, (ends, hidden); inputs may be overwritten."""
        # Positions of pictures have several axes in some models, which the blocks do not know.
        is_plain = positions.dim() == 1 and inputs.keys() == {"inputs_embeds"}
        if self._blocks is not None and is_plain:
            return self._blocks.states(inputs["inputs_embeds"][0], positions, this=this, ends=ends)
        return forward(self._backbone, inputs, positions, this=this)[ends]

    def _likeliest(self, states: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next token for each slot's state (recorded as seen), and whether logits are finite."""
        logits = self._backbone.head(states)
        if self._penalty != 1.0:
            seen = self._seen[slots]
            # As transformers' RepetitionPenaltyLogitsProcessor (Keskar et al. 2019, section 4.1).
            lessened = torch.where(logits < 0, logits * self._penalty, logits / self._penalty)
            logits = torch.where(seen, lessened, logits)
        # amax treats NaN as the largest, so checking the largest logits finds every NaN and +inf.
        finite = torch.isfinite(logits.amax(-1)).all()
        tokens = logits.argmax(-1) if self._draws is None else self._draws.tokens(logits, slots)
        if self._penalty != 1.0:
            self._seen[slots] = seen.scatter(1, tokens[:, None], True)
        return tokens, finite

    def _note_prompts(self, entering: Mapping[int, Prompt]) -> None:
        if self._draws is not None:
            for slot, prompt in entering.items():
                self._draws.enter(slot, prompt.draw)
        if self._penalty == 1.0:
            return
        for slot, prompt in entering.items():
            self._seen[slot] = False
            self._seen[slot][prompt.ids.to(self._seen.device)] = True

    def _read_shared(self) -> None:
        """Read the shared beginning into the last slot, which no answer uses, so that other slots can copy it."""
        if self._shared_is_read or not len(self._shared):
            return
        ids = self._shared.to(self._backbone.device)
        whole = Entering(start=0, stop=len(ids), slot=self.n_slots)
        this = Pass(slots=self._slots, continuing=None, entering=(whole,))
        inputs = {"inputs_embeds": self._backbone.embedding(ids[None])}
        positions = torch.arange(len(ids), device=ids.device)
        self._states(inputs, positions, this=this, ends=positions[-1:])
        self._shared_is_read = True

    def _batch(self, entering: Mapping[int, Prompt]) -> _Batch:
        """Join the running answers' newest tokens, the entering prompts and, where these are too few, unused rows."""
        if entering:
            self._read_shared()
        past, device = len(self._shared), self._backbone.device
        listed = [
            (token, each.position + i, slot, each.length + i)
            for slot, each in self._running.items()
            for i, token in enumerate((each.token, *each.guessed))
        ]
        # One copy to the device for all that is known here.
        known = torch.tensor(listed, dtype=torch.long).view(-1, 4).T.contiguous().to(device)
        tokens, positions = known[:2]
        parts: list[Entering] = []
        start = len(tokens)
        ends, rows = [*range(start)], [known[2:]]
        for slot, prompt in entering.items():
            if past:
                self._slots.copy(source=self.n_slots, target=slot, n_tokens=past)
            stop = start + len(prompt.ids) - past
            if self._slots.takes_as_rows(len(prompt.ids)):
                held = torch.arange(past, len(prompt.ids))
                rows.append(torch.stack([torch.full_like(held, slot), held]))
            else:
                parts.append(Entering(start=start, stop=stop, slot=slot, past=past))
            ends.append(stop - 1)
            start = stop
        chosen = torch.tensor([ends, [*(slot for _, _, slot, _ in listed), *entering]]).to(device)
        spare = max(0, self._least_rows - start)
        if spare:
            parts.append(Entering(start=start, stop=start + spare, slot=None))
        prompts = list(entering.values())
        starts = [positions_of(prompt)[..., past:].to(device) for prompt in prompts]
        return _Batch(
            inputs=self._inputs(tokens, prompts, spare=spare),
            positions=_joined([positions, *starts, positions.new_zeros(spare)]),
            continuing=self._continuing(torch.cat(rows, dim=1)),
            entering=parts,
            ends=chosen[0],
            slots=chosen[1],
        )

    def _continuing(self, rows: Tensor) -> Continuing | None:
        """Return the rows of running answers and short prompts, whose slots and lengths are given, (2, rows)."""
        if not rows.shape[1]:
            return None
        longest = max((each.length for each in self._running.values()), default=0) + 1
        return Continuing(
            slots=rows[0],
            lengths=rows[1],
            end=max(self._running, default=0) + 1,
            reach=min(self._slots.capacity, -(-longest // _REACH_STEP) * _REACH_STEP),
        )

    def _inputs(self, tokens: Tensor, prompts: Sequence[Prompt], *, spare: int) -> dict[str, Any]:
        embeddings = self._backbone.embedding(tokens)
        padding = embeddings.new_zeros(spare, embeddings.shape[1])
        if not prompts:
            return {"inputs_embeds": torch.cat([embeddings, padding])[None]}
        ids = torch.cat([prompt.ids[len(self._shared) :] for prompt in prompts])
        found = prefill_inputs(self._backbone, ids[None], prompts, image_token=self._image_token)
        inputs = dict(found, inputs_embeds=torch.cat([embeddings, found["inputs_embeds"][0], padding])[None])
        if "visual_pos_masks" in found:
            # A token that the model has generated never stands for a picture, even if it is the image token.
            inputs["visual_pos_masks"] = pad(found["visual_pos_masks"], (len(tokens), spare))
        return inputs


def _right(found: Sequence[int], guessed: Sequence[int]) -> Sequence[int]:
    """Return the tokens that were found behind right guesses only, and the first one, which needs none."""
    n = next((i for i, token in enumerate(guessed) if found[i] != token), len(guessed))
    return found[: n + 1]


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
