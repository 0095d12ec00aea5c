"""The embedded VLM's training questions, and its two losses: on English answers, and on image tokens close to emoji."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, MistralModel, PreTrainedTokenizerFast

from evovlm.zoo.concepts import (
    COLOUR_QUESTIONS,
    MOSAICS,
    NAME_QUESTIONS,
    all_concepts,
    concept_texts,
    mosaic_cells,
    name_answer,
    question_prompt,
)
from evovlm.zoo.corpus import LEANING
from evovlm.zoo.emoji import Scene
from evovlm.zoo.vision import PicturePool

IMAGE_TOKEN = "<image>"  # noqa: S105


class LessonRow(NamedTuple):
    """One training sequence; `picture` is a row of the features, or None for text alone."""

    prompt: list[int]
    answer: list[int]
    picture: int | None


def image_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id of the image token."""
    return int(cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)))


class Lessons:
    """Draws batches of questions and answers on pictures and, in stage 2, on text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        pool: PicturePool,
        features: Tensor,
        *,
        batch: int,
        text_share: float,
        rng: np.random.Generator,
    ) -> None:
        self.features = features
        self._tokenizer = tokenizer
        self.scenes = pool.scenes
        self._size = batch
        self._texts = round(batch * text_share)
        self._rng = rng
        self._image_id = image_token_id(tokenizer)

    def batch(self, *, stage: int) -> list[LessonRow]:
        """Return the rows of one step."""
        texts = self._texts if stage == 2 else 0
        pictures = self._rng.integers(len(self.scenes), size=self._size - texts).tolist()
        asked = [picture_question(self._rng, self.scenes[index]) for index in pictures]
        asked += [(text.prompt, text.answer) for text in concept_texts(self._rng, texts, mix=LEANING, mosaics=MOSAICS)]
        prompts = self._tokenizer([prompt for prompt, _ in asked]).input_ids
        answers = self._tokenizer([answer for _, answer in asked], add_special_tokens=False).input_ids
        end = self._tokenizer.eos_token_id
        return [
            LessonRow(self._spread(prompt), [*answer, end], picture)
            for prompt, answer, picture in zip(prompts, answers, [*pictures, *[None] * texts], strict=True)
        ]

    def _spread(self, prompt: list[int]) -> list[int]:
        places = self.features.shape[1]
        return [token for one in prompt for token in [one] * (places if one == self._image_id else 1)]


def picture_question(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """Draw an English question on a picture and its answer."""
    if scene.colour is not None and rng.random() < 0.15:
        questions, answer = COLOUR_QUESTIONS["en"], scene.colour.names["en"]
    else:
        questions, answer = NAME_QUESTIONS["en"], name_answer(scene.shown, language="en")
    question = questions[int(rng.integers(len(questions)))]
    return question_prompt(IMAGE_TOKEN, question, language="en"), answer


class Alignment:
    """The distance of image tokens from the emoji at their positions, as the ancestor reads those emoji in a text."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        lessons: Lessons,
        *,
        blocks: int,
        weight: float,
    ) -> None:
        self.weight = weight
        self._projector = model.model.multi_modal_projector
        self._reading = _first_blocks(model, count=blocks)
        self._ancestor = copy.deepcopy(self._reading).requires_grad_(False)
        self._lessons = lessons
        words = self._ancestor.embed_tokens.weight
        self._start = words[tokenizer("").input_ids]
        self._emoji = {
            concept.emoji: words[tokenizer(concept.emoji, add_special_tokens=False).input_ids].mean(dim=0)
            for concept in all_concepts()
        }

    def loss(self, rows: Sequence[LessonRow], *, stage: int) -> Tensor:
        """Return the mean squared distance, relative to the mean square of the emoji: all-zero tokens give 1.

        Of the embeddings in stage 1; in stage 2 of what the first blocks make of them, the trained and the ancestor's.
        """
        pictures = [row.picture for row in rows if row.picture is not None]
        scenes = [self._lessons.scenes[index] for index in pictures]
        cells = [torch.stack([self._emoji[cell.emoji] for cell in mosaic_cells(scene.shown)]) for scene in scenes]
        wanted, found = torch.stack(cells), self._projector(self._lessons.features[pictures])
        if stage == 2:
            wanted, found = self._read(self._ancestor, wanted), self._read(self._reading, found)
        distance: Tensor = (found - wanted).square().sum(-1).mean() / wanted.square().sum(-1).mean()
        return distance

    def _read(self, blocks: MistralModel, tokens: Tensor) -> Tensor:
        start = self._start.expand(len(tokens), -1, -1)
        states = blocks(inputs_embeds=torch.cat([start, tokens], dim=1), use_cache=False).last_hidden_state
        return cast(Tensor, states)[:, len(self._start) :]


def _first_blocks(model: LlavaForConditionalGeneration, *, count: int) -> MistralModel:
    """Return a language model of only the first `count` blocks; it shares the weights."""
    config = copy.deepcopy(model.model.language_model.config)
    config.num_hidden_layers = count
    part = MistralModel(config)
    part.embed_tokens = model.model.language_model.embed_tokens
    part.layers = model.model.language_model.layers[:count]
    part.norm = cast(Any, torch.nn.Identity())
    return part


def answer_loss(model: LlavaForConditionalGeneration, rows: Sequence[LessonRow], features: Tensor) -> Tensor:
    """Return the mean next-token loss over only the answers."""
    length = max(len(row.prompt) + len(row.answer) for row in rows)
    # Padding is on the right, after all tokens that count: causal attention needs no mask for it.
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for index, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.answer)
        ids[index, :end] = torch.tensor(row.prompt + row.answer)
        labels[index, start:end] = torch.tensor(row.answer)
    embedded = model.get_input_embeddings()(ids)
    pictures = [row.picture for row in rows if row.picture is not None]
    if pictures:
        tokens = model.model.multi_modal_projector(features[pictures])
        places = (ids == model.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(places, tokens)
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    counted = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][counted])
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:][counted])
