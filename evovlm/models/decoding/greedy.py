"""Greedy decoding with continuous batching: when an answer is finished, a waiting prompt takes its slot at once.

New prompts are read in the same pass that extends the running answers, so no row waits and nothing is padded. A small
model on a CPU decodes in several streams of one thread each.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from heapq import heappop, heappush
from threading import Lock

import torch
from torch import Tensor

from evovlm.devices import is_out_of_memory, release_memory
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.draws import Draw
from evovlm.models.decoding.guesses import guess, note_answer
from evovlm.models.decoding.packed import packed_attention
from evovlm.models.decoding.plain import PlainBlocks
from evovlm.models.decoding.products import packed_products
from evovlm.models.decoding.runner import Runner
from evovlm.models.decoding.slots import answer_limits, most_tokens, shape_of, slots_at_once
from evovlm.models.decoding.stock import Greedy, generate_stock
from evovlm.models.decoding.trial import least_rows, packs_exactly, plain_blocks
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt
from evovlm.models.threads import threads_each, threads_per_product

_TOKENS_BETWEEN_TEXT_CHECKS = 16
_PROMPTS_PER_STREAM = 32
_LEAST_SHARED_TOKENS = 16
_MOST_GUESSED = 8
# More rows in a pass cost more than a pass less saves.
_ROWS_WITH_GUESSES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When an answer ends before its limit: at a token of `stop_ids`, or when `is_over` returns True for its tokens.

    `is_over` is called only every few tokens; the caller must cut what follows the end.
    """

    stop_ids: frozenset[int]
    is_over: Callable[[list[int]], bool] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Answer:
    prompt: int
    limit: int
    tokens: list[int] = field(default_factory=list)

    def take(self, token: int, ending: Ending) -> bool:
        """Append a token unless it is the end; return whether the answer has ended."""
        if token in ending.stop_ids:
            return True
        self.tokens.append(token)
        if len(self.tokens) >= self.limit:
            return True
        is_due = len(self.tokens) % _TOKENS_BETWEEN_TEXT_CHECKS == 0
        return is_due and ending.is_over is not None and ending.is_over(self.tokens)


def decode(
    runner: Runner, prompts: Mapping[int, Prompt], *, ending: Ending, limits: Sequence[int]
) -> Iterator[tuple[int, list[int]]]:
    """Yield each prompt's number and its answer's tokens, without the stop token, as soon as the answer is finished.

    `limits` gives the largest number of tokens of each answer, by the prompt's number. Raises FloatingPointError when
    the model's logits are not finite.
    """
    waiting = deque(prompts)
    # The first free slot is taken, because torch's attention reads all slots up to the last one with an answer.
    free = list(range(runner.n_slots))
    running: dict[int, _Answer] = {}
    while waiting or running:
        entering = _admitted(waiting, free, prompts, budget=runner.prompt_tokens_at_once)
        for slot, number in entering.items():
            running[slot] = _Answer(prompt=number, limit=limits[number])
        guessed = _guessed(running, prompts) if runner.takes_guesses else {}
        new = runner.advance({slot: prompts[number] for slot, number in entering.items()}, guessed)
        for slot, tokens in new.items():
            if any(running[slot].take(token, ending) for token in tokens):
                answer = running.pop(slot)
                runner.leave(slot)
                heappush(free, slot)
                note_answer(prompts[answer.prompt].ids, answer.tokens)
                yield answer.prompt, answer.tokens


def _guessed(running: Mapping[int, _Answer], prompts: Mapping[int, Prompt]) -> dict[int, Sequence[int]]:
    """Return guesses of the next tokens by slot: more of each answer, the fewer are running."""
    each = min(_MOST_GUESSED, _ROWS_WITH_GUESSES // max(1, len(running)) - 1)
    return {
        # The last token of an answer is never guessed, because nothing follows it.
        slot: guess(prompts[answer.prompt].ids, answer.tokens, most=min(each, answer.limit - len(answer.tokens) - 1))
        for slot, answer in running.items()
        if answer.tokens
    }


def _admitted(waiting: deque[int], free: list[int], prompts: Mapping[int, Prompt], *, budget: int) -> dict[int, int]:
    """Take prompts from the queue for free slots, as many as one pass may read; return their numbers by slot."""
    entering: dict[int, int] = {}
    while waiting and free:
        n_tokens = len(prompts[waiting[0]].ids)
        # A prompt that is longer than the budget gets a pass without other new prompts.
        if entering and n_tokens > budget:
            break
        budget -= n_tokens
        entering[heappop(free)] = waiting.popleft()
    return entering


@dataclass(slots=True, kw_only=True, eq=False)
class _Answers:
    """The finished answers' tokens by their prompts' numbers; `on_answers` is called for each new one."""

    on_answers: Callable[[int, int], None] | None
    found: dict[int, list[int]] = field(default_factory=dict)
    _n_tokens: int = 0
    _lock: Lock = field(default_factory=Lock)

    def put(self, number: int, tokens: list[int]) -> None:
        with self._lock:
            self.found[number] = tokens
            self._n_tokens += len(tokens)
            if self.on_answers is not None:
                self.on_answers(len(self.found), self._n_tokens)


def generate_greedy(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    penalty: float = 1.0,
    draw: Draw | None = None,
    is_over: Callable[[list[int]], bool] | None = None,
    limits: Sequence[int] | None = None,
    on_answers: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, without the stop token, at most `max_new_tokens` of them.

    `penalty` above 1 makes tokens less likely that occur in the prompt or the answer. `draw` says how tokens are drawn
    (None: the likeliest are taken). `is_over` is called every few tokens and returns whether an answer is complete.
    `limits` shortens single answers, and the model's context limits all of them. `on_answers` is called with the number
    of finished answers and their total number of tokens, by any thread but never by two at once. Raises
    FloatingPointError when the model's logits are not finite.
    """
    backbone = Backbone.of(loaded)
    unsupported = loaded.is_spread or any(prompt.extra or prompt.own for prompt in prompts)
    if not prompts or unsupported or not packs_exactly(backbone):
        drawn = {} if draw is None else asdict(draw)
        plain = Greedy(max_new_tokens=max_new_tokens, repetition_penalty=penalty, **drawn)
        return generate_stock(loaded, prompts, decoding=plain, stop_ids=stop_ids, on_answers=on_answers)
    fitting = answer_limits(loaded, prompts, max_new_tokens=max_new_tokens)
    limits = fitting if limits is None else [min(each) for each in zip(limits, fitting, strict=True)]
    request = _Request(
        backbone=backbone,
        prompts=prompts,
        image_token=getattr(loaded.model.config, "image_token_id", None),
        ending=Ending(stop_ids=frozenset(stop_ids), is_over=is_over),
        limits=limits,
        penalty=penalty,
        draw=draw,
    )
    answers = _Answers(on_answers=on_answers)
    with packed_products(backbone):
        _decode_within_memory(request, answers)
    return [answers.found[number] for number in range(len(prompts))]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    """What all streams of one call share."""

    backbone: Backbone
    prompts: Sequence[Prompt]
    image_token: int | None
    ending: Ending
    limits: Sequence[int]
    penalty: float
    draw: Draw | None


def _decode_within_memory(request: _Request, answers: _Answers) -> None:
    """Answer all prompts; where memory runs out, those that are left are answered in half as many slots."""
    n_slots = slots_at_once(request.backbone, longest=most_tokens(request.prompts, request.limits))
    while left := [number for number in range(len(request.prompts)) if number not in answers.found]:
        has_run_out = False
        try:
            _decode_all(request, left, answers, n_slots=n_slots)
        except (MemoryError, RuntimeError) as error:
            if n_slots == 1 or not is_out_of_memory(error):
                raise
            has_run_out = True
        if has_run_out:
            # Only here, where the error no longer refers to what filled the memory.
            n_slots = max(1, min(n_slots, len(left)) // 2)
            release_memory()


def _decode_all(request: _Request, numbers: Sequence[int], answers: _Answers, *, n_slots: int) -> None:
    """Answer the prompts with these numbers, in several streams where that is faster.

    Which stream answers a prompt depends only on the numbers, so that a run can be repeated to the bit.
    """
    backbone = request.backbone
    # The products of small models are not shared between threads: each thread decodes other prompts instead.
    n_sharing = threads_per_product(hidden_size=backbone.embedding.embedding_dim, device=backbone.device)
    n_streams = max(1, min(torch.get_num_threads() // n_sharing, len(numbers) // _PROMPTS_PER_STREAM))
    shared = _shared_start([request.prompts[number] for number in numbers], image_token=request.image_token)

    def stream(first: int) -> None:
        own = numbers[first::n_streams]
        own_slots = min(len(own), max(1, n_slots // n_streams))
        _decode_stream(request, own, answers, shared=shared, n_slots=own_slots, least=least, blocks=blocks)

    with packed_attention(backbone), threads_each(n_sharing):
        least, blocks = least_rows(backbone), plain_blocks(backbone)
        if n_streams == 1:
            stream(0)
            return
        with ThreadPoolExecutor(n_streams, initializer=torch.set_num_threads, initargs=(n_sharing,)) as pool:
            for done in [pool.submit(stream, first) for first in range(n_streams)]:
                done.result()


# A setting of each thread, like the number of threads.
@torch.inference_mode()
def _decode_stream(
    request: _Request,
    numbers: Sequence[int],
    answers: _Answers,
    *,
    shared: Tensor,
    n_slots: int,
    least: int,
    blocks: PlainBlocks | None,
) -> None:
    backbone = request.backbone
    runner = Runner(
        backbone,
        shape_of(backbone),
        n_slots=n_slots,
        capacity=most_tokens(request.prompts, request.limits),
        least_rows=least,
        blocks=blocks,
        image_token=request.image_token,
        shared=shared,
        penalty=request.penalty,
        draw=request.draw,
    )
    own = {number: request.prompts[number] for number in numbers}
    for number, answer in decode(runner, own, ending=request.ending, limits=request.limits):
        answers.put(number, answer)


def _shared_start(prompts: Sequence[Prompt], *, image_token: int | None) -> Tensor:
    """Return the tokens before any picture that all prompts begin with; none if they are too few for a separate pass.

    At least one token of each prompt is left out, because its state gives the first token of the answer.
    """
    first = prompts[0].ids
    n = min(len(prompt.ids) for prompt in prompts) - 1
    for prompt in prompts[1:]:
        differing = (prompt.ids[:n] != first[:n]).nonzero()
        n = int(differing[0]) if len(differing) else n
    if image_token is not None:
        pictures = (first[:n] == image_token).nonzero()
        n = int(pictures[0]) if len(pictures) else n
    return first[: n if n >= _LEAST_SHARED_TOKENS and len(prompts) > 1 else 0]
