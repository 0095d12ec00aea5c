"""Pico models whose vocabularies differ: the same tokens at other rows, further tokens, other files."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VOCABULARY_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")


def renumbered(model: Path, to: Path, rows: Sequence[int]) -> Path:
    """Copy a pico LLM so that what was its row i is row `rows[i]`, in the weights and in its tokenizer."""
    shutil.copytree(model, to)
    weights = load_file(to / "model.safetensors")
    for name in VOCABULARY_TENSORS:
        if name in weights:
            moved = torch.empty_like(weights[name])
            moved[torch.tensor(rows)] = weights[name]
            weights[name] = moved
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    tokenizer = read_tokenizer(to)
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: rows[row] for token, row in vocabulary.items()}
    for entry in tokenizer["added_tokens"]:
        entry["id"] = rows[entry["id"]]
    write_tokenizer(to, tokenizer)
    return to


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Return a folder's tokenizer.json."""
    found: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return found


def write_tokenizer(folder: Path, tokenizer: Mapping[str, Any]) -> None:
    """Write a folder's tokenizer.json."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def rename_tokens(folder: Path, names: Mapping[str, str]) -> None:
    """Let rows of a folder stand for other ordinary tokens."""
    tokenizer = read_tokenizer(folder)
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {names.get(token, token): row for token, row in vocabulary.items()}
    write_tokenizer(folder, tokenizer)


def added_entry(token: str, row: int, *, special: bool = True) -> dict[str, Any]:
    """Return an entry of `added_tokens` in tokenizer.json."""
    return {
        "id": row,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def add_tokens(folder: Path, tokens: Mapping[str, int]) -> None:
    """Let a folder's tokenizer know further added tokens at these rows; its weights must have them."""
    tokenizer = read_tokenizer(folder)
    tokenizer["added_tokens"] += [added_entry(token, row) for token, row in tokens.items()]
    write_tokenizer(folder, tokenizer)
