"""One answer, told piece by piece while transformers' own `generate` makes it."""

from collections.abc import Callable
from typing import Any

from transformers import TextStreamer

from evovlm.models.decoding.generation import Generated, generate
from evovlm.models.decoding.stock import DecodingSettings
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt


def tell_answer(
    loaded: LoadedModel, prompt: Prompt, *, decoding: DecodingSettings, on_text: Callable[[str], None]
) -> Generated:
    """Answer a prompt, calling `on_text` with each piece of the text; with several beams there is one piece."""
    if decoding.beams > 1:
        # Which beam wins is known at the end only.
        generated = generate(loaded, [prompt], decoding=decoding)
        on_text(generated.texts[0])
        return generated
    return generate(loaded, [prompt], decoding=decoding, streamer=_Streamer(loaded.tokenizer, on_text=on_text))


class _Streamer(TextStreamer):
    """Hands on what is sure of the text: whole words, and every Japanese character."""

    def __init__(self, tokenizer: Any, *, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
        if text:
            self._on_text(text)

    def _is_chinese_char(self, cp: int) -> bool:
        # transformers waits for a blank behind kana and full-width signs, which never comes in Japanese.
        is_ideograph = super()._is_chinese_char(cp)  # type: ignore[no-untyped-call]
        return bool(is_ideograph) or 0x3000 <= cp <= 0x30FF or 0xFF00 <= cp <= 0xFFEF
