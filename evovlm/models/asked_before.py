"""Whether a model can be asked the questions of a task, found from its folder before its weights are read.

The same questions are written by the same code as in a search; only the model is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evovlm.errors import NoChatTemplate, TaskError
from evovlm.models.chat import ModelQuestion, no_eyes, split_at_places, token_ids
from evovlm.models.foreign import foreign_model
from evovlm.models.processor import open_processor
from evovlm.recipes.language_config import has_vision, language_config
from evovlm.recipes.model_config import read_model_config

_TOKENIZER_FILE = "tokenizer.json"
_ADDED_TOKENS = 8
"""More than a tokenizer adds around a text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Unloaded:
    """A model without its weights, as questions are written for it."""

    tokenizer: Any
    processor: Any | None
    config: Any
    folder: Path

    @property
    def sees(self) -> bool:
        return self.processor is not None


def check_asked(
    folder: Path, asked: Sequence[ModelQuestion], *, task: str, chat_template: str | Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Check that the model in `folder` can be asked the questions of a task; return warnings about some of them.

    `chat_template` replaces its own. Raises TaskError when a search would refuse them: pictures for a model that takes
    none, a chat without a template or with one that does not take the questions, or questions that are all longer than
    the context.
    """
    config = read_model_config(folder)
    sees = has_vision(config)
    if not sees and any(question.images for question in asked):
        raise no_eyes(folder, task=task)
    chats = [question for question in asked if question.chat]
    longest = language_config(config).get("max_position_embeddings")
    # Pictures take tokens that only the model's own image processor can count.
    may_be_long = [each for each in asked if not each.images and _may_be_long(each, longest)]
    if not chats and not may_be_long:
        return ()
    speaker = _open(folder, sees=sees and bool(chats))
    if chat_template is not None:
        writer = speaker.processor or speaker.tokenizer
        writer.chat_template = chat_template
    _check_chats(speaker, chats)
    return _too_long(speaker, may_be_long, n=len(asked), longest=longest, task=task)


def _check_chats(speaker: _Unloaded, chats: Sequence[ModelQuestion]) -> None:
    """Raise the first problem of a template that takes none of the questions; one that it does not take is unscored."""
    refused: TaskError | None = None
    for question in chats:
        try:
            split_at_places(speaker, question)
        except NoChatTemplate:
            raise
        except TaskError as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def _may_be_long(question: ModelQuestion, longest: int | None) -> bool:
    """Return whether a question may have more tokens than the context: a token is a byte or more."""
    return longest is not None and len(question.text.encode()) + _ADDED_TOKENS >= longest


def _too_long(
    speaker: _Unloaded, asked: Sequence[ModelQuestion], *, n: int, longest: int | None, task: str
) -> tuple[str, ...]:
    if longest is None or not asked:
        return ()
    texts = [("".join(split_at_places(speaker, each)), each.chat) for each in asked]
    lengths = [len(token_ids(speaker, text, chat=chat)) for text, chat in texts]
    over = [length for length in lengths if length >= longest]
    if not over:
        return ()
    if len(over) == n:
        raise TaskError(
            f"task {task}: every question is longer than the {longest} tokens that {speaker.folder} takes (the "
            f"shortest has {min(over)}).\n    Give shorter questions, or take a model with a longer context."
        )
    return (
        f"task {task}: {len(over)} of {n} questions are longer than the {longest} tokens that {speaker.folder} takes "
        f"(the longest has {max(over)}); they are unscored.",
    )


def _open(folder: Path, *, sees: bool) -> _Unloaded:
    if sees:
        return _open_seeing(folder)
    with foreign_model(folder):
        tokenizer = _tokenizer(folder)
    config = SimpleNamespace(**read_model_config(folder))
    return _Unloaded(tokenizer=tokenizer, processor=None, config=config, folder=folder)


def _tokenizer(folder: Path) -> Any:
    if (folder / _TOKENIZER_FILE).is_file():
        # Its class needs no torch, which takes seconds to import.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _open_seeing(folder: Path) -> _Unloaded:
    from transformers import AutoConfig

    with foreign_model(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        processor = open_processor(folder)
    return _Unloaded(tokenizer=processor.tokenizer, processor=processor, config=config, folder=folder)
