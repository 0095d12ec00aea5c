"""Prompts as a model takes them: token ids, and the projected features that stand in for the image tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from evovlm.models.backbone import Backbone
from evovlm.models.image_features import project_images
from evovlm.models.loading import LoadedModel


class Picture(Protocol):
    """A picture that is read when it is needed; different pictures have different keys."""

    @property
    def key(self) -> str: ...

    def load(self) -> Any: ...


class Asked(Protocol):
    """What a model is asked: a whole prompt with `<image>` where each picture goes, or a message for its template."""

    @property
    def text(self) -> str: ...
    @property
    def images(self) -> Sequence[Picture]: ...
    @property
    def chat(self) -> bool: ...
    @property
    def system(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswerable:
    """Why a question cannot be put to a model: its prompt is longer than the context, a picture cannot be read."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """Token ids, shape (length,), and the features that stand in for its image tokens, shape (tokens, hidden)."""

    ids: Tensor
    features: Tensor | None = None


def prepare_prompts(loaded: LoadedModel, asked: Sequence[Asked]) -> tuple[Prompt | Unanswerable, ...]:
    """Turn questions into prompts of one model, in order: everything that no merge changes, computed once."""
    pictures = {picture.key: picture for question in asked for picture in question.images}
    features = project_images(loaded, {key: picture.load() for key, picture in pictures.items()}) if pictures else {}
    return tuple(
        prepare_prompt(loaded, question.text, features=features[question.images[0].key] if question.images else None)
        for question in asked
    )


def prepare_prompt(loaded: LoadedModel, text: str, *, features: Tensor | None) -> Prompt:
    """Tokenise one prompt; its image token, if it has one, becomes as many as the picture has features.

    Special tokens that the tokenizer puts before a text are included, once: not if the text begins with them.
    """
    if features is not None and loaded.processor is not None:
        token = str(loaded.processor.image_token)
        text = text.replace(token, token * len(features), 1)
    start = loaded.tokenizer.bos_token
    has_start = start is not None and text.startswith(start)
    return Prompt(
        ids=torch.tensor(loaded.tokenizer(text, add_special_tokens=not has_start).input_ids), features=features
    )


def left_padded(prompts: Sequence[Prompt], *, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, each of shape (rows, longest), padded at the left; padding has id 0."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = prompt.ids
        mask[row, longest - len(prompt.ids) :] = 1
    return ids.to(device), mask.to(device)


def embed(backbone: Backbone, ids: Tensor, prompts: Sequence[Prompt], *, image_token: int | None) -> Tensor:
    """Return the input embeddings, shape (rows, length, hidden), with pictures' features at the image tokens."""
    embeddings: Tensor = backbone.embedding(ids)
    features = [prompt.features for prompt in prompts if prompt.features is not None]
    if not features or image_token is None:
        return embeddings
    places = ids == image_token
    embeddings = embeddings.clone()
    embeddings[places] = torch.cat(features).to(embeddings.device, embeddings.dtype)
    return embeddings
