"""Prompts as a model takes them: token ids, and the projected features that replace the image tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from evovlm.errors import BrokenCheckpoint, EvovlmError, NoChatTemplate, TaskError, first_line
from evovlm.models.backbone import Backbone
from evovlm.models.chat import (
    PLACE,
    ModelQuestion,
    Picture,
    count_places,
    is_whole,
    split_at_places,
    thought_marks,
    token_ids,
)
from evovlm.models.loading import LoadedModel
from evovlm.models.pictures.feature_store import FeatureStore, ProcessedPictures
from evovlm.models.pictures.image_features import (
    UnfitPicture,
    by_layer,
    family_of,
    is_decoded_here,
    own_inputs,
    see_pictures,
)
from evovlm.thoughts import ThoughtMarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswerable:
    """Why a question cannot be put to a model: its prompt is longer than the context, a picture cannot be read."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """Token ids, shape (length,), and what belongs to its pictures.

    `features` fetches what replaces its image tokens, shape (tokens, hidden size or more, see `see_pictures`).
    `positions`, int64, shape (3, length), are those of a model that counts positions in several dimensions; None where
    they are the tokens' numbers, in each dimension. The next token has the position after the last one's, in each.
    `extra` holds inputs that only the family's own forward pass understands, by their names there, shape (length,): a
    prompt with such inputs is answered by `generate_stock`. `own` makes all inputs of the model's own forward pass, for
    a family whose pictures only that understands; such a prompt has no features. `thought` is the tag with which the
    prompt begins the answer, such as <think>: it belongs to the answer's text. `draw` is the key of the answer's draws.
    """

    ids: Tensor
    features: Callable[[], Tensor] | None = None
    positions: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    own: Callable[[], Mapping[str, Tensor]] | None = None
    thought: str = ""
    draw: int = 0


def context_tokens(loaded: LoadedModel) -> int | None:
    """Return how many tokens a model takes, prompt and answer together; None if its config says no number, or -1."""
    longest: int | None = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    return longest if longest is not None and longest > 0 else None


def prepare_prompts(
    loaded: LoadedModel,
    asked: Sequence[ModelQuestion],
    *,
    store: FeatureStore | None = None,
    marks: ThoughtMarks | None = None,
) -> tuple[Prompt | Unanswerable, ...]:
    """Turn questions into prompts of one model, in order: everything that no merge changes, computed once.

    A prompt may begin a thought, which `marks` recognise (None: those of the model).

    Features go into `store` (a new one if None), once for each picture. Only the pictures of one question are in memory
    at a time. Raises TaskError for pictures that are shown to a text model, a chat without a template, and a template
    that does not take any of the questions; and what `see_pictures` raises.
    """
    kept = FeatureStore() if store is None else store
    marks = marks or thought_marks(loaded)
    found: list[Prompt | Unanswerable] = []
    refused: list[TaskError] = []
    for question in asked:
        try:
            found.append(_prepare(loaded, question, kept, marks=marks))
        except NoChatTemplate:
            raise
        except TaskError as error:
            refused.append(error)
            found.append(Unanswerable(reason=first_line(error)))
    if refused and len(refused) == len(found):
        # What refuses every question is not a matter of one sample.
        raise refused[0]
    return tuple(found)


def _prepare(
    loaded: LoadedModel, question: ModelQuestion, store: FeatureStore, *, marks: ThoughtMarks
) -> Prompt | Unanswerable:
    n_pictures = len(question.images)
    if n_pictures and not loaded.sees:
        raise TaskError(f"{loaded.folder}: takes no pictures. Name a vision-language model, or a text task.")
    parts = split_at_places(loaded, question)
    thought = marks.opened(parts[-1])
    if len(parts) != n_pictures + 1:
        return Unanswerable(
            reason=f"places for pictures ({PLACE}) in the prompt: {len(parts) - 1}, pictures: {n_pictures}"
        )
    if n_pictures and not is_decoded_here(loaded):
        return _with_own_inputs(loaded, question, parts, thought=thought)
    keys = []
    shown = []
    for group in _groups(loaded, question.images):
        key = "\0".join(picture.key for picture in group)
        seen = store.shown(key) or _see(loaded, group, key=key, store=store)
        if isinstance(seen, Unanswerable):
            return seen
        keys.append(key)
        shown.append(seen)
    texts = [text for each in shown for text in each.texts]
    text = parts[0] + "".join(seen_as + part for seen_as, part in zip(texts, parts[1:], strict=True))
    try:
        ids = token_ids(loaded, text, chat=question.chat)
    except (TypeError, UnicodeEncodeError):
        return Unanswerable(reason="the question contains half a character, which is not valid Unicode")
    unfit = _unfit_length(loaded, len(ids)) or _unfit_token(loaded, ids)
    if unfit is not None:
        return unfit
    if loaded.sees and count_places(loaded, ids) != sum(each.n_tokens for each in shown):
        # A tokenizer that normalises the text first finds tokens that the text does not contain literally.
        return Unanswerable(reason="the question's text writes the model's own image tokens, in other characters")
    if not shown:
        return Prompt(ids=torch.tensor(ids, dtype=torch.long), thought=thought)
    return replace(_with_pictures(loaded, ids, keys=keys, shown=shown, store=store), thought=thought)


def _unfit_token(loaded: LoadedModel, ids: Sequence[int]) -> Unanswerable | None:
    """Return why a prompt's tokens cannot be read: one has no row in the embedding."""
    n_rows = loaded.model.get_input_embeddings().num_embeddings
    row = max(ids)
    if row < n_rows:
        return None
    token = loaded.tokenizer.convert_ids_to_tokens(row)
    return Unanswerable(reason=f"the question has the token {token!r} ({row}), and the model has {n_rows} rows")


def _unfit_length(loaded: LoadedModel, n_tokens: int) -> Unanswerable | None:
    if not n_tokens:
        return Unanswerable(reason="the model's tokenizer makes no tokens of the prompt")
    longest = context_tokens(loaded)
    if longest is None or n_tokens < longest:
        return None
    return Unanswerable(
        reason=f"the prompt has {n_tokens} tokens, the model takes {longest}, of which an answer needs at least 1"
    )


def _with_own_inputs(
    loaded: LoadedModel, question: ModelQuestion, parts: Sequence[str], *, thought: str
) -> Prompt | Unanswerable:
    """Return the prompt as the model's processor makes it, whose pictures are read again for each candidate."""
    text = str(getattr(loaded.processor, "image_token", "")).join(parts)
    whole = is_whole(loaded, text, chat=question.chat)

    def own() -> Mapping[str, Tensor]:
        return own_inputs(loaded, text, [picture.load() for picture in question.images], is_whole=whole)

    try:
        ids = own()["input_ids"][0]
    except (EvovlmError, UnfitPicture) as error:
        if isinstance(error, BrokenCheckpoint):
            raise
        return Unanswerable(reason=str(error))
    return _unfit_length(loaded, len(ids)) or Prompt(ids=ids, own=own, thought=thought)


def _groups(loaded: LoadedModel, pictures: Sequence[Picture]) -> list[Sequence[Picture]]:
    """Return the pictures in groups whose features are computed together."""
    if pictures and family_of(loaded).tiles_one_picture:
        return [pictures]
    return [[picture] for picture in pictures]


def _see(
    loaded: LoadedModel, pictures: Sequence[Picture], *, key: str, store: FeatureStore
) -> ProcessedPictures | Unanswerable:
    try:
        opened = [picture.load() for picture in pictures]
    except EvovlmError as error:
        return Unanswerable(reason=str(error))
    try:
        features, shown = see_pictures(loaded, opened)
    except UnfitPicture as error:
        return Unanswerable(reason=f"{', '.join(picture.key for picture in pictures)}: {error}")
    store.put(key, features, shown=shown)
    return shown


def _with_pictures(
    loaded: LoadedModel, ids: list[int], *, keys: Sequence[str], shown: Sequence[ProcessedPictures], store: FeatureStore
) -> Prompt:
    found = torch.tensor(ids, dtype=torch.long)
    processor: Any = loaded.processor
    kinds = torch.tensor(processor.create_mm_token_type_ids([ids])[0], dtype=torch.long)
    grids = [each.grid for each in shown if each.grid is not None]
    positions = None
    if grids:
        positions, _ = loaded.model.model.get_rope_index(
            found[None], mm_token_type_ids=kinds[None], image_grid_thw=torch.cat(grids)
        )
    kind_name = family_of(loaded).kinds_input
    return Prompt(
        ids=found,
        features=lambda: store.read(keys),
        positions=None if positions is None else positions[:, 0],
        extra={} if kind_name is None else {kind_name: kinds},
    )


def left_padded(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, on the CPU, shape (rows, longest) each, padded at the left; padding has id 0."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt.ids) :] = prompt.ids
        mask[row, longest - len(prompt.ids) :] = 1
    return ids, mask


def left_padded_positions(prompts: Sequence[Prompt], *, device: torch.device) -> Tensor:
    """Return positions, int64, padded at the left with 0: shape (rows, longest), or (3, rows, longest) where a prompt
    has positions in several dimensions."""
    longest = max(len(prompt.ids) for prompt in prompts)
    several = any(prompt.positions is not None for prompt in prompts)
    positions = torch.zeros(3 if several else 1, len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        counted = torch.arange(len(prompt.ids)) if prompt.positions is None else prompt.positions
        positions[:, row, longest - len(prompt.ids) :] = counted
    return positions.to(device) if several else positions[0].to(device)


def embed(backbone: Backbone, ids: Tensor, prompts: Sequence[Prompt], *, image_token: int | None) -> Tensor:
    """Return the input embeddings, shape (rows, length, hidden), with the pictures' features at the image tokens.

    `ids` are on the CPU, shape (rows, length).
    """
    embeddings: Tensor = prefill_inputs(backbone, ids, prompts, image_token=image_token)["inputs_embeds"]
    return embeddings


def prefill_inputs(
    backbone: Backbone, ids: Tensor, prompts: Sequence[Prompt], *, image_token: int | None
) -> dict[str, Any]:
    """Return what the decoder takes in place of `ids`, on the CPU, shape (rows, length): `inputs_embeds`, see `embed`.

    With features for several layers (Qwen3-VL), those of the later layers are included under the decoder's names.
    """
    embeddings: Tensor = backbone.embedding(ids.to(backbone.device))
    found = [prompt.features() for prompt in prompts if prompt.features is not None]
    if not found or image_token is None:
        return {"inputs_embeds": embeddings}
    shows_picture = ids == image_token
    # Found on the CPU, since a GPU would be waited for.
    places = shows_picture.flatten().nonzero()[:, 0].to(embeddings.device)
    features = torch.cat(found).to(embeddings.device, embeddings.dtype)
    at_embedding, *later = by_layer(features, hidden=embeddings.shape[-1])
    embeddings = embeddings.clone()
    embeddings.flatten(0, 1)[places] = at_embedding
    if not later:
        return {"inputs_embeds": embeddings}
    shows_picture = shows_picture.to(embeddings.device)
    return {"inputs_embeds": embeddings, "visual_pos_masks": shows_picture, "deepstack_visual_embeds": later}
