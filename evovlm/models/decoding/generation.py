"""Answers to many prompts at once.

Greedy decoding, with or without a repetition penalty, is our own loop (continuous batching over slots) and gives the
same tokens as `model.generate(do_sample=False)` for each prompt; it also draws answers at a temperature. Beam search
uses `model.generate` itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TextStreamer

from evovlm.models.chat import special_tokens, thought_marks
from evovlm.models.decoding.draws import Draw
from evovlm.models.decoding.greedy import generate_greedy
from evovlm.models.decoding.stock import DecodingSettings, generate_stock
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt
from evovlm.thoughts import ThoughtMarks, split_thought


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The answers' texts, without special tokens, and their total number of tokens.

    A tag that begins a thought at the end of the prompt begins the text.
    """

    texts: tuple[str, ...]
    tokens: int


def generate(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    decoding: DecodingSettings,
    marks: ThoughtMarks | None = None,
    streamer: Any = None,
    on_answers: Callable[[int, int], None] | None = None,
) -> Generated:
    """Answer every prompt. Raises FloatingPointError when the model's logits are not finite.

    Special tokens among the `marks` of thoughts (None: those of the model) stay in the texts, and an answer ends only
    at a stop string that is behind its thought.

    A `streamer` of transformers receives the tokens; it needs a single prompt and one beam. `on_answers` is called with
    the number of finished answers and their total number of tokens, whenever one is finished.
    """
    ends = stop_ids(loaded)
    marks = marks or thought_marks(loaded)
    opened = next((prompt.thought for prompt in prompts if prompt.thought), "")
    if streamer is None and decoding.beams == 1:
        rows = generate_greedy(
            loaded,
            prompts,
            max_new_tokens=decoding.max_new_tokens,
            stop_ids=ends,
            penalty=decoding.repetition_penalty,
            draw=Draw.of(decoding),
            is_over=_finds_stop(loaded, decoding.stop, marks=marks, opened=opened) if decoding.stop else None,
            on_answers=on_answers,
        )
    else:
        rows = generate_stock(
            loaded, prompts, decoding=decoding, stop_ids=ends, streamer=streamer, on_answers=on_answers
        )
    return generated(loaded, prompts, rows, stops=decoding.stop, marks=marks)


def generated(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[int]],
    *,
    stops: Sequence[str],
    marks: ThoughtMarks,
) -> Generated:
    """Return the answers to prompts whose tokens, without the stop token, are `rows`; texts end before `stops`."""
    texts = (
        _before_stop(prompt.thought + text, stops, marks)
        for prompt, text in zip(prompts, answer_texts(loaded, rows, marks), strict=True)
    )
    return Generated(texts=tuple(texts), tokens=sum(map(len, rows)))


def answer_texts(loaded: LoadedModel, rows: Sequence[Sequence[int]], marks: ThoughtMarks) -> list[str]:
    """Return the texts of tokens without special tokens, except those that separate thought and answer."""
    tokenizer, special = loaded.tokenizer, special_tokens(loaded)
    kept = marks.special(special)
    if kept:
        skipped = frozenset(tokenizer.convert_tokens_to_ids(list(special - kept)))
        rows = [[token for token in row if token not in skipped] for row in rows]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=not kept)) if rows else []


def stop_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return the tokens that end an answer: those of the generation config, and the tokenizer's own."""
    found = loaded.model.generation_config.eos_token_id
    configured = found if isinstance(found, list) else [found]
    return frozenset(token for token in (*configured, loaded.tokenizer.eos_token_id) if token is not None)


def _finds_stop(
    loaded: LoadedModel, stops: Sequence[str], *, marks: ThoughtMarks, opened: str
) -> Callable[[list[int]], bool]:
    def is_over(tokens: list[int]) -> bool:
        (text,) = answer_texts(loaded, [tokens], marks)
        return _first_stop(opened + text, stops, marks) is not None

    return is_over


def _first_stop(text: str, stops: Sequence[str], marks: ThoughtMarks) -> int | None:
    """Return where the first stop string behind the thought begins."""
    begins = split_thought(text, marks).begins
    if begins is None:
        return None
    return min((place for place in (text.find(stop, begins) for stop in stops) if place >= 0), default=None)


def _before_stop(text: str, stops: Sequence[str], marks: ThoughtMarks) -> str:
    return text[: _first_stop(text, stops, marks)] if stops else text


def stream_answer(
    loaded: LoadedModel, prompt: Prompt, *, decoding: DecodingSettings, on_text: Callable[[str], None]
) -> Generated:
    """Answer a prompt, calling `on_text` with each piece of the text; with several beams there is one piece."""
    if decoding.beams > 1:
        # The best beam is known only at the end.
        generated = generate(loaded, [prompt], decoding=decoding)
        on_text(generated.texts[0].strip())
        return generated
    return generate(loaded, [prompt], decoding=decoding, streamer=_Streamer(loaded.tokenizer, on_text=on_text))


class _Streamer(TextStreamer):
    """Passes on text that can no longer change: whole words, and single Japanese characters."""

    def __init__(self, tokenizer: Any, *, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
        if text:
            self._on_text(text)

    def _is_chinese_char(self, cp: int) -> bool:
        # transformers waits for a space after kana and full-width characters, but Japanese has none.
        is_ideograph = super()._is_chinese_char(cp)  # type: ignore[no-untyped-call]
        return bool(is_ideograph) or 0x3000 <= cp <= 0x30FF or 0xFF00 <= cp <= 0xFFEF
