"""Answers to many prompts at once.

Greedy decoding is our own loop (continuous batching over slots) and gives the same tokens as
`model.generate(do_sample=False)`, row by row; beam search and repetition penalties go through `model.generate` itself.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from evovlm.models.backbone import Backbone
from evovlm.models.greedy import Ending, decode
from evovlm.models.loading import LoadedModel
from evovlm.models.packed import packed_attention, packs_exactly
from evovlm.models.prompt import Prompt
from evovlm.models.runner import CpuRunner, DeviceRunner, Runner
from evovlm.models.slots import shape_of
from evovlm.models.stock import stock_inputs
from evovlm.room import available_memory_bytes

# More rows than this gain nothing: products are as fast as they get, and every slot takes memory.
_SLOTS_ON_CPU = 96
_SLOTS_ON_GPU = 512
_MEMORY_SHARE = 0.7
# Products of small models are too small to share between threads: there each thread decodes prompts of its own.
_SMALL_HIDDEN_SIZE = 1024
_PROMPTS_PER_STREAM = 32
_LEAST_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The answers' texts, without special tokens and surrounding space, and how many tokens they took."""

    texts: tuple[str, ...]
    tokens: int


class DecodingSettings(Protocol):
    """How answers are decoded: greedily where `beams` is 1 and `repetition_penalty` is 1."""

    @property
    def max_new_tokens(self) -> int: ...
    @property
    def beams(self) -> int: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def stop(self) -> tuple[str, ...]: ...


def generate(loaded: LoadedModel, prompts: Sequence[Prompt], *, decoding: DecodingSettings) -> Generated:
    """Answer every prompt. Raises FloatingPointError when the model's logits are not finite."""
    stop_ids = _stop_ids(loaded)
    if decoding.beams == 1 and decoding.repetition_penalty == 1.0:
        rows = generate_greedy(
            loaded,
            prompts,
            max_new_tokens=decoding.max_new_tokens,
            stop_ids=stop_ids,
            is_over=_finds_stop(loaded, decoding.stop) if decoding.stop else None,
        )
    else:
        rows = generate_stock(loaded, prompts, decoding=decoding, stop_ids=stop_ids)
    texts = loaded.tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []
    return Generated(
        texts=tuple(_before_stop(text, decoding.stop).strip() for text in texts), tokens=sum(map(len, rows))
    )


def generate_greedy(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    is_over: Callable[[list[int]], bool] | None = None,
    limits: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, without the stop token, at most `max_new_tokens` of them.

    `is_over` is asked from time to time whether an answer needs no more tokens; `limits` shortens single answers.
    Raises FloatingPointError when the model's logits are not finite.
    """
    backbone = Backbone.of(loaded)
    if not prompts or any(prompt.extra for prompt in prompts) or not packs_exactly(backbone):
        plain = _Greedy(max_new_tokens=max_new_tokens)
        return generate_stock(loaded, prompts, decoding=plain, stop_ids=stop_ids)
    ending = Ending(max_new_tokens=max_new_tokens, stop_ids=frozenset(stop_ids), is_over=is_over)
    answers: dict[int, list[int]] = {}
    n_slots = _slots_at_once(backbone, longest=_longest(prompts) + max_new_tokens)
    while len(answers) < len(prompts):
        left = [number for number in range(len(prompts)) if number not in answers]
        try:
            _decode_all(loaded, backbone, prompts, left, answers, ending=ending, limits=limits, n_slots=n_slots)
        except torch.OutOfMemoryError:
            if n_slots == 1:
                raise
            n_slots //= 2
            torch.cuda.empty_cache()
    return [answers[number] for number in range(len(prompts))]


def _decode_all(
    loaded: LoadedModel,
    backbone: Backbone,
    prompts: Sequence[Prompt],
    numbers: Sequence[int],
    answers: dict[int, list[int]],
    *,
    ending: Ending,
    limits: Sequence[int] | None,
    n_slots: int,
) -> None:
    """Answer the prompts of these numbers, in as many streams as gain something, each with prompts of its own.

    Which stream answers a prompt depends on nothing but the numbers, so that a run can be repeated to the bit.
    """
    shape = shape_of(backbone)
    room = _longest(prompts) + ending.max_new_tokens
    small = shape.device.type == "cpu" and backbone.embedding.embedding_dim < _SMALL_HIDDEN_SIZE
    threads = torch.get_num_threads()
    n_streams = max(1, min(threads, len(numbers) // _PROMPTS_PER_STREAM)) if small else 1
    image_token = _image_token(loaded)
    shared = _shared_start([prompts[number] for number in numbers], image_token=image_token)

    def stream(first: int) -> None:
        own = {number: prompts[number] for number in numbers[first::n_streams]}
        kind = CpuRunner if shape.device.type == "cpu" else DeviceRunner
        slots = min(len(own), max(1, n_slots // n_streams))
        # Inference mode and the number of threads are settings of each thread.
        with torch.inference_mode():
            runner: Runner = kind(backbone, shape, n_slots=slots, room=room, image_token=image_token, shared=shared)
            for number, answer in decode(runner, own, ending=ending, limits=limits):
                answers[number] = answer

    with packed_attention(backbone), _threads_each(threads // n_streams):
        if n_streams == 1:
            stream(0)
            return
        with ThreadPoolExecutor(n_streams, initializer=torch.set_num_threads, initargs=(threads // n_streams,)) as pool:
            for done in [pool.submit(stream, first) for first in range(n_streams)]:
                done.result()


@contextmanager
def _threads_each(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def generate_stock(
    loaded: LoadedModel, prompts: Sequence[Prompt], *, decoding: DecodingSettings, stop_ids: Collection[int]
) -> list[list[int]]:
    """Return what transformers' own `generate` answers to each prompt, without the stop token; never samples."""
    backbone = Backbone.of(loaded)
    longest = _longest(prompts) + decoding.max_new_tokens
    rows_at_once = max(1, _slots_at_once(backbone, longest=longest) // decoding.beams)
    generated: list[list[int]] = [[] for _ in prompts]
    for rows in _batches(prompts, rows_at_once=rows_at_once):
        batch = [prompts[row] for row in rows]
        inputs = stock_inputs(loaded, batch)
        found = loaded.model.generate(
            **inputs,
            do_sample=False,
            num_beams=decoding.beams,
            repetition_penalty=decoding.repetition_penalty,
            max_new_tokens=decoding.max_new_tokens,
            pad_token_id=loaded.tokenizer.pad_token_id,
            eos_token_id=sorted(stop_ids),
        )
        for row, tokens in zip(rows, found[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            ends = [place for place, token in enumerate(tokens) if token in stop_ids]
            generated[row] = tokens[: ends[0]] if ends else tokens
    return generated


@dataclass(frozen=True, slots=True, kw_only=True)
class _Greedy:
    max_new_tokens: int
    beams: int = 1
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()


def _stop_ids(loaded: LoadedModel) -> frozenset[int]:
    found = loaded.model.generation_config.eos_token_id
    configured = found if isinstance(found, list) else [found]
    return frozenset(token for token in (*configured, loaded.tokenizer.eos_token_id) if token is not None)


def _finds_stop(loaded: LoadedModel, stops: Sequence[str]) -> Callable[[list[int]], bool]:
    def is_over(tokens: list[int]) -> bool:
        text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        return any(stop in text for stop in stops)

    return is_over


def _before_stop(text: str, stops: Sequence[str]) -> str:
    cuts = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return text[: min(cuts)] if cuts else text


def _image_token(loaded: LoadedModel) -> int | None:
    token = getattr(loaded.model.config, "image_token_id", None)
    return None if token is None else int(token)


def _batches(prompts: Sequence[Prompt], *, rows_at_once: int) -> list[list[int]]:
    """Return the indices of the prompts in batches of like size, prompts of like length together."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
    n_batches = math.ceil(len(order) / rows_at_once)
    edges = [len(order) * number // n_batches for number in range(n_batches + 1)] if n_batches else []
    return [order[start:end] for start, end in itertools.pairwise(edges)]


def _shared_start(prompts: Sequence[Prompt], *, image_token: int | None) -> Tensor:
    """Return the tokens that all prompts begin with, before any picture; none if that is not worth a pass of its own.

    Every prompt keeps a token of its own, whose state says how the answer begins.
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


def _longest(prompts: Sequence[Prompt]) -> int:
    return max((len(prompt.ids) for prompt in prompts), default=0)


def _slots_at_once(backbone: Backbone, *, longest: int) -> int:
    """Return how many answers of `longest` tokens, prompt and all, the device has room for, within what is of use."""
    row_bytes = _row_bytes(backbone.decoder.config, longest, backbone.embedding.weight.element_size())
    is_gpu = backbone.device.type == "cuda"
    most = _SLOTS_ON_GPU if is_gpu else _SLOTS_ON_CPU
    free_bytes = torch.cuda.mem_get_info(backbone.device)[0] if is_gpu else available_memory_bytes()
    return most if free_bytes is None else max(1, min(most, int(_MEMORY_SHARE * free_bytes / row_bytes)))


def _row_bytes(config: Any, longest: int, number_bytes: int) -> int:
    """Return what a row takes: keys and values of all layers, one layer's activations, and its logits in float32."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    active = 6 * config.hidden_size + 3 * config.intermediate_size
    return int(longest * (cached + active) * number_bytes + 8 * config.vocab_size)
