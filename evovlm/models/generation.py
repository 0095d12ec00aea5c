"""Answers to many prompts at once: sorted by length, in batches as large as memory allows.

Greedy decoding is our own loop and gives the same tokens as `model.generate(do_sample=False)`, row by row; beam search
and repetition penalties go through `model.generate` itself.
"""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from evovlm.models.backbone import Backbone
from evovlm.models.greedy import Ending, GreedyBatch
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, embed, left_padded

# More rows than this gain nothing: on a CPU keys and values then leave the cache between two steps.
_ROWS_ON_CPU = 96
_ROWS_ON_GPU = 512
_MEMORY_SHARE = 0.7


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


def generate(
    loaded: LoadedModel, prompts: Sequence[Prompt], *, decoding: DecodingSettings, streamer: Any = None
) -> Generated:
    """Answer every prompt. Raises FloatingPointError when the model's logits are not finite.

    A `streamer` of transformers is told the tokens of the one prompt there is, which is decoded with one beam.
    """
    stop_ids = _stop_ids(loaded)
    if streamer is None and decoding.beams == 1 and decoding.repetition_penalty == 1.0:
        rows = generate_greedy(
            loaded,
            prompts,
            max_new_tokens=decoding.max_new_tokens,
            stop_ids=stop_ids,
            is_over=_finds_stop(loaded, decoding.stop) if decoding.stop else None,
        )
    else:
        rows = generate_stock(loaded, prompts, decoding=decoding, stop_ids=stop_ids, streamer=streamer)
    texts = loaded.tokenizer.batch_decode(rows, skip_special_tokens=True) if rows else []
    return Generated(
        texts=tuple(_before_stop(text, decoding.stop).strip() for text in texts), tokens=sum(map(len, rows))
    )


@torch.inference_mode()
def generate_greedy(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int],
    is_over: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, without the stop token, at most `max_new_tokens` of them.

    `is_over` is asked from time to time whether an answer needs no more tokens. Raises FloatingPointError when the
    model's logits are not finite.
    """
    backbone = Backbone.of(loaded)
    longest = max((len(prompt.ids) for prompt in prompts), default=0) + max_new_tokens
    window = _sliding_window(backbone, longest)
    # Our masks are for SDPA, which transformers takes wherever a model allows it; Gemma 2's soft caps do not.
    if window == _MIXED or backbone.decoder.config._attn_implementation != "sdpa":
        plain = _Greedy(max_new_tokens=max_new_tokens)
        return generate_stock(loaded, prompts, decoding=plain, stop_ids=stop_ids)
    ending = Ending(max_new_tokens=max_new_tokens, stop_ids=tuple(sorted(stop_ids)), is_over=is_over)
    generated: list[list[int]] = [[] for _ in prompts]
    for rows in _batches(prompts, rows_at_once=_rows_at_once(backbone, longest)):
        batch = GreedyBatch(
            backbone,
            [prompts[row] for row in rows],
            ending=ending,
            image_token=_image_token(loaded),
            window=window,
        )
        for row, answer in zip(rows, batch.run(), strict=True):
            generated[row] = answer
    return generated


@torch.inference_mode()
def generate_stock(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    decoding: DecodingSettings,
    stop_ids: Collection[int],
    streamer: Any = None,
) -> list[list[int]]:
    """Return what transformers' own `generate` answers to each prompt, without the stop token; never samples."""
    backbone = Backbone.of(loaded)
    longest = max((len(prompt.ids) for prompt in prompts), default=0) + decoding.max_new_tokens
    rows_at_once = max(1, _rows_at_once(backbone, longest) // decoding.beams)
    generated: list[list[int]] = [[] for _ in prompts]
    for rows in _batches(prompts, rows_at_once=rows_at_once):
        batch = [prompts[row] for row in rows]
        ids, mask = left_padded(batch, device=backbone.device)
        found = loaded.model.generate(
            # Ids beside the embeddings let the repetition penalty see the prompt, as it does in ordinary use.
            input_ids=ids,
            inputs_embeds=embed(backbone, ids, batch, image_token=_image_token(loaded)),
            attention_mask=mask,
            do_sample=False,
            num_beams=decoding.beams,
            repetition_penalty=decoding.repetition_penalty,
            max_new_tokens=decoding.max_new_tokens,
            pad_token_id=loaded.tokenizer.pad_token_id,
            eos_token_id=sorted(stop_ids),
            streamer=streamer,
        )
        for row, tokens in zip(rows, found[:, ids.shape[1] :].tolist(), strict=True):
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


_MIXED = -1


def _sliding_window(backbone: Backbone, longest: int) -> int | None:
    """Return the attention's window in tokens, None where it does not bite, _MIXED where layers differ in it."""
    config = backbone.decoder.config
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ("sliding_attention",))
    if window is None or longest <= window or "sliding_attention" not in kinds:
        return None
    return window if len(kinds) == 1 else _MIXED


def _rows_at_once(backbone: Backbone, longest: int) -> int:
    """Return how many rows of `longest` tokens fit into the device's free memory, within what is of use."""
    if backbone.device.type != "cuda":
        return _ROWS_ON_CPU
    free_bytes, _total = torch.cuda.mem_get_info(backbone.device)
    row_bytes = _row_bytes(backbone.decoder.config, longest, backbone.embedding.weight.element_size())
    return max(1, min(_ROWS_ON_GPU, int(_MEMORY_SHARE * free_bytes / row_bytes)))


def _row_bytes(config: Any, longest: int, number_bytes: int) -> int:
    """Return what a row takes: keys and values of all layers, one layer's activations, and its logits in float32."""
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * head_size
    active = 6 * config.hidden_size + 3 * config.intermediate_size
    return int(longest * (cached + active) * number_bytes + 8 * config.vocab_size)
