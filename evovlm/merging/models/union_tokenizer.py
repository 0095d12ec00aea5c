"""A tokenizer with further added tokens: the host's files, with entries for the tokens that it lacked."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evovlm.merging.models.vocabulary import (
    ADDED_TOKENS_FILE,
    ADDED_TOKENS_KEY,
    SENTENCEPIECE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
)
from evovlm.merging.models.vocabulary_policy import NewToken

_COPIED = (
    TOKENIZER_FILE,
    SENTENCEPIECE_FILE,
    VOCABULARY_FILE,
    ADDED_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    "merges.txt",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def union_tokenizer(host_folder: Path, new_tokens: Sequence[NewToken], out_folder: Path) -> None:
    """Write the host's tokenizer with `new_tokens` added to it into a folder that exists; what is there is replaced.

    Every file that lists added tokens gets them, each matched in a text as where it came from. A tokenizer that is a
    SentencePiece model alone gets both lists beside it.
    """
    for name in _COPIED:
        if (host_folder / name).is_file():
            shutil.copyfile(host_folder / name, out_folder / name)
    tokenizer_file = out_folder / TOKENIZER_FILE
    is_whole = tokenizer_file.is_file()
    if is_whole:
        tokenizer = _read(tokenizer_file)
        entries = [{"id": token.row, "content": token.token, **token.entry} for token in new_tokens]
        _write(tokenizer_file, {**tokenizer, "added_tokens": [*(tokenizer.get("added_tokens") or []), *entries]})
    config = _read(out_folder / TOKENIZER_CONFIG_FILE)
    if ADDED_TOKENS_KEY in config or not is_whole:
        decoder = {str(token.row): {"content": token.token, **token.entry} for token in new_tokens}
        known = config.get(ADDED_TOKENS_KEY) or {}
        _write(out_folder / TOKENIZER_CONFIG_FILE, {**config, ADDED_TOKENS_KEY: {**known, **decoder}})
    if (out_folder / ADDED_TOKENS_FILE).is_file() or not is_whole:
        rows = {token.token: token.row for token in new_tokens}
        _write(out_folder / ADDED_TOKENS_FILE, {**_read(out_folder / ADDED_TOKENS_FILE), **rows})


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
