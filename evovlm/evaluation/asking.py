"""One question from a person to a model: in which prompt, with which pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from evovlm.errors import TaskError
from evovlm.evaluation.answering import broken_logits
from evovlm.tasks.pictures import EncodedPicture, PictureFile
from evovlm.tasks.prompts import CHAT, PLAIN, ChatSettings, Question, ask
from evovlm.tasks.sample import ImageSource, Sample

if TYPE_CHECKING:
    from evovlm.models.decoding.generation import Generated
    from evovlm.models.decoding.stock import DecodingSettings
    from evovlm.models.loading import LoadedModel

MOST_BYTES = 32 * 2**20
TIMEOUT_S = 30.0
_CHUNK_BYTES = 2**16
_WEB = ("http", "https")
_ZOO = "zoo:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How questions are asked: the `prompt` (a row of PROMPTS, `chat` or `plain`), the system message, the pictures."""

    prompt: str
    system: str | None = None
    images: tuple[ImageSource, ...] = ()

    def question(self, text: str) -> Question:
        """Return what the model is asked. Raises TaskError for an unknown prompt."""
        if self.prompt == PLAIN:
            return Question(text="<image>\n" * len(self.images) + text, images=self.images)
        sample = Sample(id="asked", question=text, references=(), images=self.images)
        return ask(self.prompt, sample, chat=ChatSettings(system=self.system))


def open_pictures(places: Sequence[str]) -> tuple[ImageSource, ...]:
    """Return the pictures at these files and http(s) addresses. Raises TaskError for one that cannot be read."""
    pictures: list[ImageSource] = []
    for place in places:
        if is_web_address(place):
            pictures.append(fetch_picture(place))
            continue
        if not os.path.isfile(place):  # noqa: PTH113 (also False for a name that is too long)
            raise TaskError(f"{place}: this picture was not found. Name a file, or an http(s) address.")
        picture = PictureFile(path=Path(place))
        picture.load()
        pictures.append(picture)
    return tuple(pictures)


def usual_prompt(loaded: LoadedModel, *, model: str, pictures: bool) -> str:
    """Return the prompt that suits a model, `model` on the command line: the one it was trained on, if known."""
    if model.startswith(_ZOO):
        return "zoo-picture-ja" if pictures else "zoo-problem-ja"
    return CHAT if _has_chat_template(loaded) else PLAIN


def check_manner(loaded: LoadedModel, manner: Manner) -> None:
    """Raise TaskError when the model cannot be asked in this manner."""
    if manner.images and not loaded.sees:
        raise TaskError(f"{loaded.folder}: takes no pictures. Leave out --image, or name a vision-language model.")
    if manner.prompt == CHAT and not _has_chat_template(loaded):
        raise TaskError(f"{loaded.folder}: has no chat template. Name another prompt, for example --prompt {PLAIN}.")
    if manner.system is not None and manner.prompt != CHAT:
        raise TaskError(
            f"--system: only the prompt '{CHAT}' takes a system message, and this is '{manner.prompt}'.\n"
            "    Leave out --system, or put it into the question."
        )


def answer_question(
    loaded: LoadedModel, question: Question, *, decoding: DecodingSettings, on_text: Callable[[str], None]
) -> Generated:
    """Answer one question, calling `on_text` with each piece of the text as it comes.

    Raises TaskError when the model cannot be asked this (a prompt longer than its context, for example), and ModelError
    when its logits are not finite.
    """
    import torch

    from evovlm.models.decoding.generation import stream_answer
    from evovlm.models.prompt import Unanswerable, prepare_prompts

    with torch.inference_mode():
        (prompt,) = prepare_prompts(loaded, [question])
        if isinstance(prompt, Unanswerable):
            raise TaskError(f"{loaded.folder} cannot be asked this: {prompt.reason}.")
        try:
            return stream_answer(loaded, prompt, decoding=decoding, on_text=on_text)
        except FloatingPointError as error:
            raise broken_logits(loaded, error, asked="this question") from error


def _has_chat_template(loaded: LoadedModel) -> bool:
    writer = loaded.processor if loaded.processor is not None else loaded.tokenizer
    return bool(getattr(writer, "chat_template", None))


def is_web_address(text: str) -> bool:
    """Return whether the text is an http(s) address."""
    return text.lower().startswith(("http://", "https://"))


def fetch_picture(address: str, *, timeout_s: float = TIMEOUT_S) -> EncodedPicture:
    """Fetch a picture. Raises TaskError for one that takes longer than `timeout_s`, exceeds MOST_BYTES or is broken."""
    try:
        picture = EncodedPicture(content=_fetch(address, timeout_s=timeout_s), where=address)
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise TaskError(f"{address}: cannot be fetched ({error}). Save the picture and name the file.") from error
    picture.load()
    return picture


def _fetch(address: str, *, timeout_s: float) -> bytes:
    until = time.monotonic() + timeout_s
    request = Request(address, headers={"User-Agent": "evovlm", "Accept": "image/*"})  # noqa: S310 (checked by the caller)
    with urlopen(request, timeout=timeout_s) as response:  # noqa: S310
        if urlsplit(response.geturl()).scheme not in _WEB:
            raise ValueError("it redirects to an address outside the web")
        content = bytearray()
        while piece := response.read1(_CHUNK_BYTES):
            content += piece
            if len(content) > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES // 2**20} MiB")
            if time.monotonic() > until:
                raise TimeoutError(f"it takes more than {timeout_s:.0f} s")
    return bytes(content)
