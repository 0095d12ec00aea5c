"""Which model a merged model chats like: what it takes in place of its host's template, and what it loses with it.

A template is written for tokens, and an answer ends at one. So whoever gives the template also gives the special tokens
that it names and, unless `generation` names another model, what ends an answer.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from evovlm.errors import ConfigError
from evovlm.merging.models.chat_files import (
    DEFAULT,
    END_MARK,
    JINJA_FILE,
    JSON_FILE,
    MARKS_FILE,
    STOP_KEY,
    TEMPLATE_KEY,
    ChatFiles,
    generation_in_rows,
    json_or_empty,
    tokens_in,
)
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.vocabulary import TOKENIZER_CONFIG_FILE
from evovlm.recipes.checkpoint_files import TEMPLATES_FOLDER
from evovlm.recipes.choices import AUTO, HOST, is_template_text
from evovlm.recipes.model_config import GENERATION_CONFIG_FILE
from evovlm.recipes.recipe import Vocabulary

_SHOWN = 6


class ChatChoice(Protocol):
    """What a recipe says about chatting, and about tokens that not all models have."""

    @property
    def chat_template(self) -> str | None: ...
    @property
    def generation(self) -> str | None: ...
    @property
    def vocabulary(self) -> Vocabulary | None: ...


class _Speaker(NamedTuple):
    """A model of the merge, and how it chats."""

    model: NamedCheckpoint
    chat: ChatFiles

    @property
    def short(self) -> str:
        """Its name in `chat_template`."""
        return self.model.name.removeprefix("sources.")


class _Templates(NamedTuple):
    """Chat templates by name, the special tokens that they name by their keys, and all tokens that they need."""

    texts: Mapping[str, str] = {}
    marks: Mapping[str, str] = {}
    tokens: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChange:
    """What a result's files say about chatting in place of the host's.

    `templates` (empty: the host's) and `marks` are those of `ChatFiles`; `generation` is the content of
    generation_config.json with tokens in place of rows (None: the host's file). `tokens` are those that all this needs
    and the host's tokenizer lacks. `notes` say what was left out.
    """

    templates: Mapping[str, str]
    marks: Mapping[str, str]
    generation: Mapping[str, Any] | None
    tokens: frozenset[str]
    notes: tuple[str, ...]

    @property
    def template(self) -> str | Mapping[str, str] | None:
        """The templates as transformers holds them: a text, or several by name; None for the host's."""
        return self.templates[DEFAULT] if set(self.templates) == {DEFAULT} else dict(self.templates) or None

    def generation_config(self, rows: Mapping[str, int]) -> Mapping[str, Any] | None:
        """Return the content of generation_config.json, given the rows of the result's tokens."""
        return None if self.generation is None else generation_in_rows(self.generation, rows)

    def stop_ids(self, rows: Mapping[str, int]) -> Any:
        """Return the rows that end an answer, None where the host's do."""
        return (self.generation_config(rows) or {}).get(STOP_KEY)

    def write(self, folder: Path, rows: Mapping[str, int]) -> None:
        """Write it into a folder that holds the host's files; files there are replaced. `rows`: of the result."""
        settings = json_or_empty(folder / TOKENIZER_CONFIG_FILE)
        changed = {**settings, **self.marks}
        if self.templates:
            self._write_templates(folder)
            changed.pop(TEMPLATE_KEY, None)
        if changed != settings:
            _write(folder / TOKENIZER_CONFIG_FILE, changed)
        if self.marks and (folder / MARKS_FILE).is_file():
            _write(folder / MARKS_FILE, {**json_or_empty(folder / MARKS_FILE), **self.marks})
        generation = self.generation_config(rows)
        if generation is not None:
            _write(folder / GENERATION_CONFIG_FILE, generation)

    def _write_templates(self, folder: Path) -> None:
        (folder / JSON_FILE).unlink(missing_ok=True)
        shutil.rmtree(folder / TEMPLATES_FOLDER, ignore_errors=True)
        for name, text in self.templates.items():
            file = folder / JINJA_FILE if name == DEFAULT else folder / TEMPLATES_FOLDER / f"{name}.jinja"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="")


def plan_chat(
    recipe: ChatChoice,
    *,
    base: NamedCheckpoint | None,
    host: NamedCheckpoint,
    sources: Iterable[NamedCheckpoint],
) -> ChatChange | None:
    """Return what the result takes in place of the host's template and stop tokens, None if everything is the host's.

    Raises ConfigError when the named model has no template, when it and the host do not both see pictures, or when
    `auto` finds different templates; BrokenCheckpoint for files that cannot be read.
    """
    if recipe.chat_template is None and recipe.generation is None:
        return None
    own = _speaker(host)
    others = [_speaker(model) for model in (*([base] if base else []), *_by_name(sources))]
    given = _templates(recipe.chat_template, own, others)
    marks = dict(given.marks)
    notes: list[str] = []
    if not given.texts and recipe.chat_template is not None:
        notes.append("chat_template: auto: no source has a chat template; the result keeps that of the host.")
    is_text = is_template_text(recipe.chat_template)
    choice = recipe.generation or (None if is_text else recipe.chat_template)
    generation, end_mark, unknown = _generation(choice, own, others)
    if end_mark is not None:
        marks.setdefault(END_MARK, end_mark)
    notes += [f"generation: {key} is left out: it names a row that is not a token's." for key in unknown]
    known = own.chat.tokens.rows if own.chat.tokens is not None else {}
    needed = {*marks.values(), *given.tokens, *tokens_in(generation or {})}
    return ChatChange(
        templates=given.texts,
        marks={key: token for key, token in marks.items() if own.chat.marks.get(key) != token},
        generation=generation,
        tokens=frozenset(needed - known.keys()),
        notes=tuple(notes),
    )


def _templates(choice: str | None, own: _Speaker, others: Sequence[_Speaker]) -> _Templates:
    """Return the templates that the result takes in place of the host's; none for the host's own."""
    if choice is not None and is_template_text(choice):
        added = (each.chat.tokens.added for each in (own, *others) if each.chat.tokens is not None)
        tokens = frozenset(token for each in added for token in each if token in choice)
        return _Templates({DEFAULT: choice}, tokens=tokens)
    giver = _template_giver(choice, own, others)
    if giver is None:
        return _Templates()
    return _Templates(giver.chat.templates, giver.chat.marks_in_templates, giver.chat.tokens_in_templates)


def _template_giver(choice: str | None, own: _Speaker, others: Sequence[_Speaker]) -> _Speaker | None:
    """Return the model whose template the result takes, None for the host's."""
    if choice is None:
        return None
    if choice != AUTO:
        giver = next(each for each in others if each.short == choice)
        if not giver.chat.templates:
            raise ConfigError(
                f"chat_template: {giver.model} does not have a chat template.\n"
                "    Name another model, or remove the line to keep the host's."
            )
        if _sees(giver) != _sees(own):
            raise ConfigError(
                f"chat_template: of {giver.model} and the host {own.model}, only one sees pictures, so that the "
                "template of one does not fit the other.\n    Name another model, or remove the line."
            )
        return giver
    speaking = _comparable(own, others)
    if len({_template_key(each) for each in speaking}) > 1:
        named = " and ".join(each.short for each in speaking)
        raise ConfigError(
            f"chat_template: auto takes the template that the sources agree on, but those of {named} differ.\n"
            f"    Name one: `chat_template: {speaking[0].short}`."
        )
    return speaking[0] if speaking else None


def _generation(
    choice: str | None, own: _Speaker, others: Sequence[_Speaker]
) -> tuple[dict[str, Any] | None, str | None, tuple[str, ...]]:
    """Return generation settings (with tokens for rows), the token that ends an answer, and the keys left out."""
    if choice in (None, HOST):
        return None, None, ()
    if choice != AUTO:
        giver = next(each for each in others if each.short == choice)
        found, unknown = giver.chat.generation_in_tokens()
        if STOP_KEY in unknown:
            raise ConfigError(
                f"generation: {giver.model} ends answers at a row ({STOP_KEY}) that its tokenizer does not name.\n"
                "    Correct its generation_config.json, or write `generation: host`."
            )
        return dict(found), giver.chat.marks.get(END_MARK), unknown
    sources = _sources(others)
    hosts, unknown = own.chat.generation_in_tokens()
    settings = [each.chat.generation_in_tokens()[0] for each in sources]
    agreed = {
        key: value
        for key, value in settings[0].items()
        if not key.endswith("_token_id") and all(each.get(key) == value for each in settings)
    }
    stops = sorted({token for each in sources for token in each.chat.stops})
    ends = {each.chat.marks.get(END_MARK) for each in sources}
    found = {**hosts, **agreed, **({STOP_KEY: stops} if stops else {})}
    return found, ends.pop() if len(ends) == 1 else None, unknown


def chat_warnings(
    recipe: ChatChoice,
    *,
    host: NamedCheckpoint,
    sources: Iterable[NamedCheckpoint],
    can_add_tokens: bool = True,
) -> tuple[str, ...]:
    """Return what the sources share and the host lacks: a chat template, stop tokens, added tokens; with what to write.

    `can_add_tokens`: `vocabulary: union` would give the result all added tokens.
    Raises BrokenCheckpoint for files that cannot be read.
    """
    own = _speaker(host)
    others = [each for each in map(_speaker, _by_name(sources)) if each.model.checkpoint is not host.checkpoint]
    is_text = is_template_text(recipe.chat_template)
    if recipe.chat_template is not None and not is_text:
        return ()
    speaking = [each for each in _comparable(own, others) if not is_text and each.chat.templates != own.chat.templates]
    meant = speaking or [each for each in others if _sees(each) == _sees(own)]
    if not meant:
        return ()
    stops = frozenset.intersection(*(each.chat.stops for each in meant)) - own.chat.stops
    lost = _lost_tokens(own, meant) if can_add_tokens and recipe.vocabulary != "union" else frozenset()
    named, plural = " and ".join(each.model.name for each in meant), len(meant) > 1
    if not speaking and (not stops or recipe.generation is not None):
        if not lost:
            return ()
        return (
            f"{named} {'have' if plural else 'has'} the added tokens {_listed(lost)}, which {own.model} lacks; "
            "the result lacks them too. `vocabulary: union` gives them rows.",
        )
    what = [f"the added tokens {_listed(lost)}"] if lost else []
    if stops and recipe.generation is None:
        what.insert(0, f"the stop token {_listed(stops)}" if len(stops) == 1 else f"the stop tokens {_listed(stops)}")
    key, same = "chat_template" if speaking else "generation", True
    if speaking:
        same = len({_template_key(each) for each in speaking}) == 1
        what.insert(0, "a chat template" if same else "different chat templates")
    verb = ("share" if same else "have") if plural else "has"
    lacks = "lacks" if not speaking or not own.chat.templates else "does not have (its own template differs)"
    line = f"`{key}: {AUTO if same else meant[0].short}`"
    return (
        f"{named} {verb} {_and(what)}, which {own.model} {lacks}: the result would not chat or stop as "
        f"{'they do' if plural else 'it does'}. Write {line} in the recipe to take them"
        f"{', or name another model' if not same else ''}.",
    )


def _lost_tokens(own: _Speaker, others: Sequence[_Speaker]) -> frozenset[str]:
    if own.chat.tokens is None:
        return frozenset()
    known = own.chat.tokens.rows.keys()
    added = [each.chat.tokens.added.keys() - known if each.chat.tokens else frozenset() for each in others]
    return frozenset(added[0]).intersection(*added[1:])


def _speaker(model: NamedCheckpoint) -> _Speaker:
    checkpoint = model.checkpoint
    files = ChatFiles.read(checkpoint.folder, checkpoint.config, tokenizer=checkpoint.tokenizer_folder)
    return _Speaker(model, files)


def _sees(speaker: _Speaker) -> bool:
    return speaker.model.checkpoint.layout.is_vlm


def _sources(speakers: Sequence[_Speaker]) -> list[_Speaker]:
    return [each for each in speakers if each.model.name.startswith("sources.")]


def _comparable(own: _Speaker, others: Sequence[_Speaker]) -> list[_Speaker]:
    """Return the sources with a chat template that fits the host."""
    return [each for each in _sources(others) if each.chat.templates and _sees(each) == _sees(own)]


def _template_key(speaker: _Speaker) -> str:
    return json.dumps([dict(speaker.chat.templates), dict(speaker.chat.marks_in_templates)], sort_keys=True)


def _by_name(models: Iterable[NamedCheckpoint]) -> list[NamedCheckpoint]:
    return sorted(models, key=lambda model: model.name)


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def _listed(tokens: Iterable[str]) -> str:
    ordered = sorted(tokens)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(repr(token) for token in ordered[:_SHOWN]) + more


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
