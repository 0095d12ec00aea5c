"""A question as text for a model, with places for its pictures; special tokens in its words stay plain text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jinja2.exceptions import TemplateError

from evovlm.errors import NoChatTemplate, TaskError
from evovlm.thoughts import AUTO, Reasoning, ThoughtMarks, marks_for

# A template is a small program: it divides, subscripts, recurses, calls methods.
RAISED_BY_TEMPLATES = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What rendering a chat template may raise."""
PLACE = "<image>"
"""Marks the place of a picture in a prompt that is not written for one model."""


class Picture(Protocol):
    """A picture that is read when it is needed; different pictures have different keys."""

    @property
    def key(self) -> str: ...

    def load(self) -> Any: ...


class Speaker(Protocol):
    """What a question is written for: a model's tokenizer, config, and processor where it sees pictures."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def processor(self) -> Any | None: ...
    @property
    def config(self) -> Any: ...
    @property
    def folder(self) -> Path: ...
    @property
    def sees(self) -> bool: ...


class ModelQuestion(Protocol):
    """What a model is asked: a whole prompt with `<image>` where each picture goes, or a message for its template.

    `template` holds further values that the template reads.
    """

    @property
    def text(self) -> str: ...
    @property
    def images(self) -> Sequence[Picture]: ...
    @property
    def chat(self) -> bool: ...
    @property
    def system(self) -> str | None: ...
    @property
    def template(self) -> Mapping[str, Any]: ...


def split_at_places(loaded: Speaker, question: ModelQuestion) -> list[str]:
    """Return the text before, between and after the places of the pictures: one more part than there are places.

    In a whole prompt the first places are those of the pictures, and further ones are plain text; with fewer places
    than pictures there are fewer parts. The model's own image tokens in a text are not places: a space after their
    first character turns them into plain text. In a message for a chat template this is done to every special token.

    Raises TaskError for a chat without a template, or with one that does not take the message or the pictures.
    """
    if question.chat:
        return _split_chat(loaded, question)
    n_pictures = len(question.images)
    begin, end = _around_a_picture(loaded)
    parts = [_plain(part, _image_tokens(loaded)) for part in question.text.split(PLACE, n_pictures)]
    last = len(parts) - 1
    return [(end if place > 0 else "") + part + (begin if place < last else "") for place, part in enumerate(parts)]


def token_ids(loaded: Speaker, text: str, *, chat: bool) -> list[int]:
    """Return a whole prompt's tokens, with the start token once, whether or not the text begins with it."""
    whole = is_whole(loaded, text, chat=chat)
    ids: list[int] = loaded.tokenizer(text, add_special_tokens=not whole, verbose=False).input_ids
    return ids


def is_whole(loaded: Speaker, text: str, *, chat: bool) -> bool:
    """Return whether a prompt has the start token that it needs."""
    start = loaded.tokenizer.bos_token
    # A text model's template writes its start token itself; a processor adds what its template leaves out.
    return (chat and not loaded.sees) or (start is not None and text.startswith(start))


def count_places(loaded: Speaker, ids: Sequence[int]) -> int:
    """Return how many tokens of a prompt the model reads as those of pictures or videos."""
    return sum(ids.count(token) for token in _image_token_ids(loaded))


def no_eyes(folder: Path, *, task: str) -> TaskError:
    """Return the error for a task with pictures and a model that takes none."""
    return TaskError(
        f"task {task}: its samples have pictures, and {folder} takes no pictures.\n"
        "    Name a vision-language model, or a text task."
    )


def _split_chat(loaded: Speaker, question: ModelQuestion) -> list[str]:
    writer: Any = loaded.processor or loaded.tokenizer
    n_pictures = len(question.images)
    if not writer.chat_template:
        raise NoChatTemplate(
            f"{loaded.folder}: has no chat template, which the prompt `chat` needs.\n"
            "    Name a written-out prompt (--prompt, or `prompt:`; docs/scoring.md lists them), or add a template."
        )
    tokens = special_tokens(loaded) | _image_tokens(loaded)
    # transformers takes most of a second to import.
    from evovlm.models.chat_template import bounded_template

    messages = [] if question.system is None else [_message(loaded, "system", _plain(question.system, tokens))]
    messages.append(_message(loaded, "user", _plain(question.text, tokens), n_pictures=n_pictures))
    try:
        with bounded_template(writer.chat_template) as template:
            text: str = writer.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=True, tokenize=False, **question.template
            )
    except RAISED_BY_TEMPLATES as error:
        raise TaskError(
            f"{loaded.folder}: its chat template does not take the question ({error}).\n"
            "    Name a written-out prompt (--prompt, or `prompt:`; docs/scoring.md lists them)."
        ) from error
    parts = text.split(str(writer.image_token)) if n_pictures else [text]
    if len(parts) != n_pictures + 1:
        raise TaskError(
            f"{loaded.folder}: places for pictures in its chat template: {len(parts) - 1}, pictures: {n_pictures}.\n"
            "    Name a written-out prompt (--prompt, or `prompt:`; docs/scoring.md lists them)."
        )
    return parts


def _message(loaded: Speaker, role: str, text: str, *, n_pictures: int = 0) -> dict[str, Any]:
    if not loaded.sees:
        return {"role": role, "content": text}
    return {"role": role, "content": [{"type": "image"}] * n_pictures + [{"type": "text", "text": text}]}


def _around_a_picture(loaded: Speaker) -> tuple[str, str]:
    """Return what a chat template of the family writes before and after its image token (Qwen-VL does)."""
    config, words = loaded.config, loaded.tokenizer.convert_ids_to_tokens
    ids = (getattr(config, "vision_start_token_id", None), getattr(config, "vision_end_token_id", None))
    begin, end = ("" if each is None or not loaded.sees else str(words(each)) for each in ids)
    return begin, end


def _image_token_ids(loaded: Speaker) -> frozenset[int]:
    ids = (getattr(loaded.config, name, None) for name in ("image_token_id", "video_token_id"))
    return frozenset(int(each) for each in ids if each is not None)


def _image_tokens(loaded: Speaker) -> frozenset[str]:
    """Return the texts of the tokens that stand for pictures and videos."""
    if loaded.processor is None:
        return frozenset()
    tokens = {loaded.tokenizer.convert_ids_to_tokens(each) for each in _image_token_ids(loaded)}
    tokens |= {getattr(loaded.processor, name, None) for name in ("image_token", "video_token")}
    return frozenset(str(token) for token in tokens if token)


def thought_marks(loaded: Speaker, reasoning: Reasoning = AUTO) -> ThoughtMarks:
    """Return what marks thoughts in a model's texts; for `auto`, by its added tokens and its chat template."""
    template = getattr(loaded.processor or loaded.tokenizer, "chat_template", None) or ""
    added = {token.content for token in loaded.tokenizer.added_tokens_decoder.values()}
    return marks_for(reasoning, tokens=added, template=template if isinstance(template, str) else str(template))


def special_tokens(loaded: Speaker) -> frozenset[str]:
    """Return the texts of all special tokens of a tokenizer."""
    added = loaded.tokenizer.added_tokens_decoder.values()
    return frozenset(loaded.tokenizer.all_special_tokens) | {token.content for token in added if token.special}


def _plain(text: str, tokens: frozenset[str]) -> str:
    for token in sorted(tokens, key=lambda token: (-len(token), token)):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
