"""Do two models mean the same token by the same embedding row? Read from tokenizer.json alone."""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

TOKENIZER_FILE = "tokenizer.json"


class DifferingToken(NamedTuple):
    """A row, and the token it stands for in each of two models."""

    row: int
    ours: str
    theirs: str


def differing_tokens(folder: Path, other: Path, *, rows: int) -> tuple[DifferingToken, ...]:
    """Return the rows below `rows` that stand for different tokens in the two model folders.

    Rows that either tokenizer does not name, and folders without a readable tokenizer.json, are passed over: there
    is nothing to compare.
    """
    ours, theirs = _tokens(folder / TOKENIZER_FILE), _tokens(other / TOKENIZER_FILE)
    shared = sorted(row for row in ours.keys() & theirs.keys() if row < rows)
    return tuple(DifferingToken(row, ours[row], theirs[row]) for row in shared if ours[row] != theirs[row])


@lru_cache(maxsize=8)
def _tokens(file: Path) -> dict[int, str]:
    try:
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        # Unigram vocabularies are lists of (token, score), the others map token to row.
        rows = {entry[0]: row for row, entry in enumerate(vocabulary)} if isinstance(vocabulary, list) else vocabulary
        tokens = {int(row): str(token) for token, row in rows.items()}
        tokens.update({int(added["id"]): str(added["content"]) for added in tokenizer.get("added_tokens", [])})
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return {}
    return tokens
