"""Answers by transformers' own `generate`, without running the vision encoder and the projector again."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from evovlm.devices import is_out_of_memory, release_memory
from evovlm.models.backbone import Backbone
from evovlm.models.decoding.draws import Draw, DrawSettings, uniform
from evovlm.models.decoding.slots import answer_limits, most_tokens, slots_at_once
from evovlm.models.loading import LoadedModel
from evovlm.models.pictures.image_features import by_layer, family_of, placed
from evovlm.models.prompt import Prompt, embed, left_padded, left_padded_positions


class DecodingSettings(DrawSettings, Protocol):
    """How answers are decoded: greedily where `beams` and `repetition_penalty` are 1 and `temperature` is 0."""

    @property
    def max_new_tokens(self) -> int: ...
    @property
    def beams(self) -> int: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def stop(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """Decoding of single tokens, the likeliest or drawn ones, without stop strings."""

    max_new_tokens: int
    beams: int = 1
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@torch.inference_mode()
def generate_stock(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    decoding: DecodingSettings,
    stop_ids: Collection[int],
    streamer: Any = None,
    on_answers: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Return the tokens that transformers' own `generate` answers to each prompt, without the stop token.

    Answers end at the model's context. `on_answers` is called after each batch with the number of answers and their
    total number of tokens. Raises FloatingPointError when the model's logits are not finite.
    """
    limits = answer_limits(loaded, prompts, max_new_tokens=decoding.max_new_tokens)
    longest = most_tokens(prompts, limits)
    rows_at_once = max(1, slots_at_once(Backbone.of(loaded), longest=longest) // decoding.beams)
    if rows_at_once > 1 and not pads_exactly(loaded):
        rows_at_once = 1
    generated: dict[int, list[int]] = {}
    waiting = _batches(prompts, limits, rows_at_once=rows_at_once)[::-1]
    while waiting:
        rows, found = waiting.pop(), None
        try:
            batch = [prompts[row] for row in rows]
            found = _generate(
                loaded, batch, decoding=decoding, limit=limits[rows[0]], stop_ids=stop_ids, streamer=streamer
            )
        except (MemoryError, RuntimeError) as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        if found is None:
            # Only here, where the error no longer refers to what filled the memory.
            release_memory()
            waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
            continue
        for row, tokens in zip(rows, found, strict=True):
            ends = [place for place, token in enumerate(tokens) if token in stop_ids]
            generated[row] = tokens[: ends[0]] if ends else tokens
        if on_answers is not None:
            on_answers(len(generated), sum(map(len, generated.values())))
    return [generated[row] for row in range(len(prompts))]


_TRIAL_LENGTHS = (3, 30)
_TRIAL_TOKENS = 3
_LARGEST_CHANGE = 0.02
_pads: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@torch.inference_mode()
def pads_exactly(loaded: LoadedModel) -> bool:
    """Return whether padding on the left changes no answer; tested once per model on two short texts.

    It does for models that number positions from the first padding token on (learned positions of BART's decoder).
    """
    if loaded.model not in _pads:
        n_rows = Backbone.of(loaded).embedding.num_embeddings
        texts = [Prompt(ids=torch.arange(length) * 7 % n_rows) for length in _TRIAL_LENGTHS]
        together = _first_logits(loaded, texts)
        alone = torch.cat([_first_logits(loaded, [text]) for text in texts])
        # NaN is reported by the answers themselves.
        _pads[loaded.model] = not bool((together - alone).norm() > _LARGEST_CHANGE * alone.norm())
    return _pads[loaded.model]


def _first_logits(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Tensor:
    """Return the logits of each answer's first tokens, (prompts, tokens, vocabulary), as `generate` computes them."""
    found = loaded.model.generate(
        **stock_inputs(loaded, prompts),
        do_sample=False,
        num_beams=1,
        max_new_tokens=_TRIAL_TOKENS,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(tuple(found.logits), dim=1).float()


def _generate(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    decoding: DecodingSettings,
    limit: int,
    stop_ids: Collection[int],
    streamer: Any,
) -> list[list[int]]:
    inputs = stock_inputs(loaded, prompts)
    processors: list[Any] = [_refuse_nan]
    draw = Draw.of(decoding)
    if draw is not None:
        keys = torch.tensor([prompt.draw for prompt in prompts], device=inputs["input_ids"].device)
        processors.append(_Drawn(draw, keys=keys, n_prompt=inputs["input_ids"].shape[1]))
    found = loaded.model.generate(
        **inputs,
        do_sample=False,
        num_beams=decoding.beams,
        repetition_penalty=decoding.repetition_penalty,
        max_new_tokens=limit,
        pad_token_id=loaded.tokenizer.pad_token_id,
        eos_token_id=sorted(stop_ids),
        logits_processor=processors,
        streamer=streamer,
    )
    rows: list[list[int]] = found[:, inputs["input_ids"].shape[1] :].tolist()
    return rows


def _refuse_nan(_ids: Tensor, scores: Tensor) -> Tensor:
    if bool(torch.isnan(scores).any()):
        raise FloatingPointError("the model's logits are not finite")
    return scores


class _Drawn:
    """Leaves of each row's scores only that of the drawn token; the likeliest token is then the drawn one."""

    def __init__(self, draw: Draw, *, keys: Tensor, n_prompt: int) -> None:
        self._draw, self._keys, self._n_prompt = draw, keys, n_prompt

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        positions = torch.full_like(self._keys, ids.shape[1] - self._n_prompt)
        tokens = self._draw.tokens(scores, uniform(self._keys, positions))
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def _batches(prompts: Sequence[Prompt], limits: Sequence[int], *, rows_at_once: int) -> list[list[int]]:
    """Return the indices of the prompts in batches of similar size and one limit, with prompts of similar length.

    `generate` has one limit per batch, and which beam it chooses depends on the limit.
    """
    by_limit: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids)):
        if prompts[index].own is None:
            by_limit[limits[index]].append(index)
    batches = [[index] for index, prompt in enumerate(prompts) if prompt.own is not None]
    for order in by_limit.values():
        n_batches = math.ceil(len(order) / rows_at_once)
        edges = [len(order) * number // n_batches for number in range(n_batches + 1)]
        batches += [order[start:end] for start, end in itertools.pairwise(edges)]
    return batches


def stock_inputs(loaded: LoadedModel, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the inputs of `generate` for these prompts, each tensor with one row per prompt, padded on the left.

    They give the same answers as the processor's inputs: positions and token kinds are those of the family.
    """
    if prompts[0].own is not None:
        # A batch of one, whose pictures only the model's own forward pass understands.
        return dict(placed(prompts[0].own(), loaded))
    backbone = Backbone.of(loaded)
    padded, mask = left_padded(prompts)
    ids, mask = padded.to(backbone.device), mask.to(backbone.device)
    # The ids are passed even with embeddings, so that the repetition penalty covers the prompt, as in ordinary use.
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if any(prompt.positions is not None for prompt in prompts):
        # The plain token positions precede those of the three dimensions.
        plain = (mask.cumsum(1) - 1).clamp(min=0)
        inputs["position_ids"] = torch.cat([plain[None], left_padded_positions(prompts, device=backbone.device)])
    for name in sorted({name for prompt in prompts for name in prompt.extra}):
        inputs[name] = _padded_extra(prompts, name, like=ids)
    if any(prompt.features is not None for prompt in prompts):
        if family_of(loaded).takes_encoded:
            inputs["mm_encoder_outputs"] = {"image": _encoded(loaded, prompts)}
        else:
            inputs["inputs_embeds"] = embed(backbone, padded, prompts, image_token=loaded.model.config.image_token_id)
    return inputs


def _encoded(loaded: LoadedModel, prompts: Sequence[Prompt]) -> Any:
    """Return features in the form of the model's own image part: Gemma 3 by picture, Qwen3-VL by prompt and layer."""
    features = [prompt.features().to(loaded.device) for prompt in prompts if prompt.features is not None]
    config = loaded.model.config
    hidden = config.get_text_config().hidden_size
    kind: Any = BaseModelOutputWithDeepstackFeatures
    if not family_of(loaded).deepstack:
        return kind(pooler_output=torch.cat(features).view(-1, config.mm_tokens_per_image, hidden))
    at_embedding, *later = zip(*(by_layer(each, hidden=hidden) for each in features), strict=True)
    return kind(pooler_output=list(at_embedding), deepstack_features=[list(layer) for layer in later])


def _padded_extra(prompts: Sequence[Prompt], name: str, *, like: Tensor) -> Tensor:
    padded = torch.zeros_like(like)
    for row, prompt in enumerate(prompts):
        if name in prompt.extra:
            padded[row, like.shape[1] - len(prompt.ids) :] = prompt.extra[name]
    return padded
