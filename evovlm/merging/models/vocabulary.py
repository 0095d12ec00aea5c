"""The tokens of a model, read from its tokenizer's files alone, and a tokenizer with further added tokens.

The files are tried in the order in which transformers prefers them: tokenizer.json, a SentencePiece tokenizer.model,
vocab.json; added_tokens.json and tokenizer_config.json name the tokens added to the latter two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from evovlm.errors import BrokenCheckpoint
from evovlm.recipes.checkpoint_files import TEXT_LIMIT_BYTES
from evovlm.recipes.model_config import read_model_json

TOKENIZER_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
VOCABULARY_FILE = "vocab.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADDED_TOKENS_KEY = "added_tokens_decoder"

_MAIN_FILES = (TOKENIZER_FILE, SENTENCEPIECE_FILE, VOCABULARY_FILE)
# A stranger's tokenizer may have any value anywhere; sentencepiece raises OSError and RuntimeError.
_RAISED_BY_TOKENIZERS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError)
_PLAIN_ENTRY: Mapping[str, Any] = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """What a tokenizer knows: the row of every token, and how the added tokens are matched in a text.

    `added` has an entry, in the form of tokenizer.json without its id, for each token that is not learnt from a corpus:
    special tokens and tokens added later. All others are ordinary.
    """

    rows: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]


class NewToken(NamedTuple):
    """An added token that the host lacks: its row in the result, the rows it has elsewhere, its tokenizer entry."""

    token: str
    row: int
    origins: tuple[tuple[str, int], ...]
    entry: Mapping[str, Any]


def read_tokens(folder: Path) -> Tokens | None:
    """Return what the tokenizer in a model folder knows, None if the folder does not have a tokenizer.

    Raises BrokenCheckpoint when one of its files cannot be read.
    """
    files = [folder / name for name in (*_MAIN_FILES, ADDED_TOKENS_FILE, TOKENIZER_CONFIG_FILE)]
    states = {file.name: file.stat() for file in files if file.is_file()}
    if not any(name in states for name in _MAIN_FILES):
        return None
    return _read(folder, tuple((name, state.st_mtime_ns, state.st_size) for name, state in states.items()))


@lru_cache(maxsize=8)
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Tokens:
    names = [name for name, _, _ in state]
    rows: dict[str, int] = {}
    added: dict[str, Mapping[str, Any]] = {}
    for name, read in (
        (TOKENIZER_FILE, _from_tokenizer_json),
        (SENTENCEPIECE_FILE, _from_sentencepiece),
        (VOCABULARY_FILE, _from_vocabulary),
    ):
        if name in names:
            found = _checked(read, folder / name)
            rows, added = dict(found.rows), dict(found.added)
            break
    for name, read in ((ADDED_TOKENS_FILE, _from_added_tokens), (TOKENIZER_CONFIG_FILE, _from_tokenizer_config)):
        if name in names:
            found = _checked(read, folder / name)
            # The main file's entries count; these only add further tokens.
            rows = {**found.rows, **rows}
            added = {**found.added, **added}
    return Tokens(rows=rows, added=added)


def _checked(read: Any, file: Path) -> Tokens:
    try:
        found: Tokens = read(file)
    except (BrokenCheckpoint, *_RAISED_BY_TOKENIZERS) as error:
        raise BrokenCheckpoint(
            f"{file}: cannot be read as a tokenizer ({error}).\n"
            "    Fetch it again: its tokens are needed to match the rows of the embedding."
        ) from error
    return found


def _from_tokenizer_json(file: Path) -> Tokens:
    tokenizer = _json(file)
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):
        # Unigram: a list of (token, score), in the order of rows.
        rows = {str(token): row for row, (token, _) in enumerate(vocabulary)}
    else:
        rows = {str(token): int(row) for token, row in vocabulary.items()}
    entries = {str(entry["content"]): entry for entry in tokenizer.get("added_tokens") or []}
    rows |= {token: int(entry["id"]) for token, entry in entries.items()}
    return Tokens(rows=rows, added={token: _entry(entry) for token, entry in entries.items()})


def _from_sentencepiece(file: Path) -> Tokens:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(file))
    ids = range(pieces.get_piece_size())
    rows = {pieces.id_to_piece(row): row for row in ids}
    marks = [row for row in ids if pieces.is_control(row) or pieces.is_unknown(row)]
    return Tokens(rows=rows, added={pieces.id_to_piece(row): _PLAIN_ENTRY for row in marks})


def _from_vocabulary(file: Path) -> Tokens:
    return Tokens(rows={str(token): int(row) for token, row in _json(file).items()}, added={})


def _from_added_tokens(file: Path) -> Tokens:
    rows = {str(token): int(row) for token, row in _json(file).items()}
    return Tokens(rows=rows, added=dict.fromkeys(rows, _PLAIN_ENTRY))


def _from_tokenizer_config(file: Path) -> Tokens:
    entries = _json(file).get(ADDED_TOKENS_KEY) or {}
    return Tokens(
        rows={str(entry["content"]): int(row) for row, entry in entries.items()},
        added={str(entry["content"]): _entry(entry) for entry in entries.values()},
    )


def _entry(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: bool(entry.get(key, default)) for key, default in _PLAIN_ENTRY.items()}


def _json(file: Path) -> Mapping[str, Any]:
    return read_model_json(file, limit_bytes=TEXT_LIMIT_BYTES)


def extend_tokenizer(folder: Path, new_tokens: Sequence[NewToken]) -> None:
    """Add `new_tokens` to the tokenizer in a folder.

    Every file that lists added tokens gets them, each matched in a text as in the model it comes from. A tokenizer that
    is only a SentencePiece model gets both lists beside it.
    """
    tokenizer_file = folder / TOKENIZER_FILE
    is_whole = tokenizer_file.is_file()
    if is_whole:
        tokenizer = _read_or_empty(tokenizer_file)
        entries = [{"id": token.row, "content": token.token, **token.entry} for token in new_tokens]
        _write(tokenizer_file, {**tokenizer, "added_tokens": [*(tokenizer.get("added_tokens") or []), *entries]})
    config = _read_or_empty(folder / TOKENIZER_CONFIG_FILE)
    if ADDED_TOKENS_KEY in config or not is_whole:
        decoder = {str(token.row): {"content": token.token, **token.entry} for token in new_tokens}
        known = config.get(ADDED_TOKENS_KEY) or {}
        _write(folder / TOKENIZER_CONFIG_FILE, {**config, ADDED_TOKENS_KEY: {**known, **decoder}})
    if (folder / ADDED_TOKENS_FILE).is_file() or not is_whole:
        rows = {token.token: token.row for token in new_tokens}
        _write(folder / ADDED_TOKENS_FILE, {**_read_or_empty(folder / ADDED_TOKENS_FILE), **rows})


def _read_or_empty(file: Path) -> dict[str, Any]:
    return read_model_json(file, limit_bytes=TEXT_LIMIT_BYTES) if file.is_file() else {}


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
