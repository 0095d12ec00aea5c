"""How a model chats, as its files say it: chat template, special tokens, and what ends an answer.

Templates are looked for where transformers looks: chat_template.jinja with additional_chat_templates/, then
chat_template.json, then the key of tokenizer_config.json.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evovlm.errors import BrokenCheckpoint
from evovlm.files import read_foreign
from evovlm.merging.models.vocabulary import TOKENIZER_CONFIG_FILE, Tokens, read_tokens
from evovlm.recipes.checkpoint_files import TEMPLATES_FOLDER, refuse_outside
from evovlm.recipes.model_config import (
    CONFIG_LIMIT_BYTES,
    GENERATION_CONFIG_FILE,
    check_generation_config,
    read_model_json,
)

DEFAULT = "default"
"""The name of the template that is used where none is named."""
STOP_KEY = "eos_token_id"

JINJA_FILE, JSON_FILE, MARKS_FILE = "chat_template.jinja", "chat_template.json", "special_tokens_map.json"
TEMPLATE_KEY = "chat_template"
END_MARK = "eos_token"
_TEMPLATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OF_TOKENS = re.compile(r"\w+_token_ids?|suppress_tokens|begin_suppress_tokens|bad_words_ids")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChatFiles:
    """What the files of a model folder say about chatting.

    `templates` are chat templates by name, the usual one as "default"; `marks` are special tokens by their keys in
    tokenizer_config.json ("eos_token"); `generation` is generation_config.json (without one: the token ids that
    config.json names); `tokens` is None for a folder without a tokenizer.
    """

    templates: Mapping[str, str]
    marks: Mapping[str, str]
    generation: Mapping[str, Any]
    tokens: Tokens | None

    @staticmethod
    def read(folder: Path, config: Mapping[str, Any], *, tokenizer: Path | None = None) -> "ChatFiles":
        """Return what the files of a folder with this config.json say. Raises BrokenCheckpoint for a broken one.

        `tokenizer` is the folder of the tokenizer and its templates (None: the same).
        """
        generation = _generation(folder)
        folder = tokenizer or folder
        settings = json_or_empty(folder / TOKENIZER_CONFIG_FILE)
        known = {**json_or_empty(folder / MARKS_FILE), **settings}
        marks = {key: _content(value) for key, value in known.items() if key.endswith("_token")}
        return ChatFiles(
            templates=_templates(folder, settings.get(TEMPLATE_KEY)),
            marks={key: text for key, text in marks.items() if text},
            generation=generation or {key: config[key] for key in sorted(config) if key.endswith("_token_id")},
            tokens=read_tokens(folder),
        )

    @property
    def template(self) -> str | None:
        """The usual template, None without one."""
        return self.templates.get(DEFAULT)

    @property
    def marks_in_templates(self) -> Mapping[str, str]:
        """The special tokens that the templates name by their keys."""
        text = "\n".join(self.templates.values())
        return {key: token for key, token in self.marks.items() if re.search(rf"\b{re.escape(key)}\b", text)}

    @property
    def tokens_in_templates(self) -> frozenset[str]:
        """The added tokens that are written out in the templates, and those that they name by their keys."""
        text = "\n".join(self.templates.values())
        added = self.tokens.added if self.tokens is not None else ()
        return frozenset(token for token in added if token in text) | frozenset(self.marks_in_templates.values())

    @property
    def stops(self) -> frozenset[str]:
        """The tokens that end an answer."""
        ids = self.generation.get(STOP_KEY)
        found = [self.token_of(row) for row in (ids if isinstance(ids, list) else [ids]) if row is not None]
        return frozenset(token for token in (*found, self.marks.get(END_MARK)) if token is not None)

    def token_of(self, row: int) -> str | None:
        """Return the token of a row, None for a row that the tokenizer does not name."""
        return _by_row(self.tokens).get(row) if self.tokens is not None else None

    def generation_in_tokens(self) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Return `generation` with tokens in place of rows, and the keys left out: their rows are not a token's."""
        found: dict[str, Any] = {}
        unknown: list[str] = []
        for key, value in self.generation.items():
            try:
                found[key] = _each_row(value, self._token) if _OF_TOKENS.fullmatch(key) else value
            except KeyError:
                unknown.append(key)
        return found, tuple(unknown)

    def _token(self, row: int) -> str:
        token = self.token_of(row)
        if token is None:
            raise KeyError(row)
        return token


@lru_cache(maxsize=8)
def _by_row(tokens: Tokens) -> Mapping[int, str]:
    """Return the token of each row. If two have the same row, the model uses it for the added one, else the first."""
    found: dict[int, str] = {}
    for token, row in tokens.rows.items():
        if row not in found or (token in tokens.added and found[row] not in tokens.added):
            found[row] = token
    return found


def generation_in_rows(generation: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    """Return generation settings that name tokens with their rows in a tokenizer, which knows all of them."""
    return {key: _each_token(value, rows) if _OF_TOKENS.fullmatch(key) else value for key, value in generation.items()}


def tokens_in(generation: Mapping[str, Any]) -> frozenset[str]:
    """Return the tokens that generation settings name."""
    found: set[str] = set()
    waiting = [value for key, value in generation.items() if _OF_TOKENS.fullmatch(key)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found.add(value)
    return frozenset(found)


def _each_row(value: Any, token_of: Callable[[int], str]) -> Any:
    if isinstance(value, list):
        return [_each_row(each, token_of) for each in value]
    # -1 stands for no token in old files.
    return token_of(value) if type(value) is int and value >= 0 else value


def _each_token(value: Any, rows: Mapping[str, int]) -> Any:
    if isinstance(value, list):
        return [_each_token(each, rows) for each in value]
    return rows[value] if isinstance(value, str) else value


def _templates(folder: Path, in_settings: object) -> Mapping[str, str]:
    found = {path.stem: _text(path) for path in sorted((folder / TEMPLATES_FOLDER).glob("*.jinja"))}
    if (folder / JINJA_FILE).is_file():
        found[DEFAULT] = _text(folder / JINJA_FILE)
    if not found:
        in_json = json_or_empty(folder / JSON_FILE).get(TEMPLATE_KEY)
        found = {name: text for given in (in_settings, in_json) for name, text in _named(given).items()}
    wrong = [name for name in found if not _TEMPLATE_NAME.fullmatch(name)]
    if wrong:
        raise BrokenCheckpoint(f"{folder}: a chat template is called {wrong[0][:40]!r}, which is not a file name.")
    return {name: text for name, text in found.items() if text}


def _named(given: object) -> Mapping[str, str]:
    """Return templates by name; a value of another kind is not a template, as for transformers."""
    if isinstance(given, str):
        return {DEFAULT: given}
    entries: Collection[object] = given if isinstance(given, list) else ()
    pairs = [(each.get("name"), each.get("template")) for each in entries if isinstance(each, Mapping)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def _content(value: object) -> str | None:
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _text(file: Path) -> str:
    refuse_outside(file, file.parent if file.parent.name != TEMPLATES_FOLDER else file.parent.parent)
    try:
        return read_foreign(file, limit_bytes=CONFIG_LIMIT_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{file}: cannot be read as text ({error}). Fetch the model again.") from error


def json_or_empty(file: Path) -> dict[str, Any]:
    return read_model_json(file) if file.is_file() else {}


def _generation(folder: Path) -> dict[str, Any]:
    check_generation_config(folder)
    return json_or_empty(folder / GENERATION_CONFIG_FILE)
