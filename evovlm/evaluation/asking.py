"""One question to a model as people put it: in which prompt, with which pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evovlm.errors import TaskError
from evovlm.evaluation.answering import broken_logits
from evovlm.evaluation.web_pictures import fetch_picture, is_web_address
from evovlm.models.decoding.generation import Generated
from evovlm.models.decoding.stock import DecodingSettings
from evovlm.models.decoding.streaming import tell_answer
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Unanswerable, prepare_prompts
from evovlm.tasks.pictures import PictureFile
from evovlm.tasks.prompts import CHAT, PLAIN, Question, ask
from evovlm.tasks.sample import ImageSource, Sample

_ZOO = "zoo:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How questions are put: the `prompt` (a row of PROMPTS, `chat` or `plain`), the system message, the pictures."""

    prompt: str
    system: str | None = None
    images: tuple[ImageSource, ...] = ()

    def question(self, text: str) -> Question:
        """Return what the model is asked. Raises TaskError for an unknown prompt."""
        if self.prompt == PLAIN:
            return Question(text="<image>\n" * len(self.images) + text, images=self.images)
        sample = Sample(id="asked", question=text, references=(), images=self.images)
        asked = ask(self.prompt, sample)
        return Question(text=asked.text, images=asked.images, chat=asked.chat, system=self.system)


def open_pictures(places: Sequence[str]) -> tuple[ImageSource, ...]:
    """Return the pictures at these files and http(s) addresses. Raises TaskError for one that cannot be read."""
    pictures: list[ImageSource] = []
    for place in places:
        if is_web_address(place):
            pictures.append(fetch_picture(place))
            continue
        if not Path(place).is_file():
            raise TaskError(f"{place}: there is no such picture. Name a file, or an http(s) address.")
        picture = PictureFile(path=Path(place))
        picture.load()
        pictures.append(picture)
    return tuple(pictures)


def usual_prompt(loaded: LoadedModel, *, model: str, pictures: bool) -> str:
    """Return the prompt that suits a model, called `model` on the command line: what it was trained on, if known."""
    if model.startswith(_ZOO):
        return "zoo-picture-ja" if pictures else "zoo-problem-ja"
    return CHAT if _has_chat_template(loaded) else PLAIN


def check_manner(loaded: LoadedModel, manner: Manner) -> None:
    """Raise TaskError when the model cannot be asked in this manner."""
    if manner.images and not loaded.sees:
        raise TaskError(f"{loaded.folder}: takes no pictures. Leave out --image, or name a vision-language model.")
    if manner.prompt == CHAT and not _has_chat_template(loaded):
        raise TaskError(f"{loaded.folder}: has no chat template. Name another prompt: --prompt {PLAIN}, say.")
    if manner.system is not None and manner.prompt != CHAT:
        raise TaskError(
            f"a system message belongs to a chat template, and the prompt is '{manner.prompt}'.\n"
            "    Leave out --system, or put it into the question."
        )


def answer_question(
    loaded: LoadedModel, question: Question, *, decoding: DecodingSettings, on_text: Callable[[str], None]
) -> Generated:
    """Answer one question, calling `on_text` with each piece of the text as it comes.

    Raises TaskError when the model cannot be asked it: the prompt is longer than the context, say; and ModelError when
    its logits are not finite.
    """
    with torch.inference_mode():
        (prompt,) = prepare_prompts(loaded, [question])
        if isinstance(prompt, Unanswerable):
            raise TaskError(f"{loaded.folder} cannot be asked this: {prompt.reason}.")
        try:
            return tell_answer(loaded, prompt, decoding=decoding, on_text=on_text)
        except FloatingPointError as error:
            raise broken_logits(loaded, error, asked="this question") from error


def _has_chat_template(loaded: LoadedModel) -> bool:
    writer = loaded.processor if loaded.processor is not None else loaded.tokenizer
    return bool(getattr(writer, "chat_template", None))
