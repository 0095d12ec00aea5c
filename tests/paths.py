"""Paths to be run: the steps as tuples, and two small models of a family that a path may lead through."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evovlm.recipes.layer_path import LayerPath, LayerStep
from tests.pico import pico_llm
from tests.pico_families import TEXT_PICOS

Steps = tuple[tuple[str, int, float], ...]

_DIFFERENT = ("gemma3_text", "qwen3", "llama")
# Those that differ most come first: quick tests take the first few.
LLM_FAMILIES = sorted(
    (name for name in TEXT_PICOS if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), key=lambda name: name not in _DIFFERENT
)
WINDOW = 5
# Repeated, dropped and interleaved blocks, with scales that grow, shrink and turn.
INTERLEAVED: Steps = (
    ("a", 0, 1.25),
    ("a", 1, 0.8),
    ("b", 1, -1.5),
    ("a", 1, 1.0),
    ("a", 1, 0.5),
    ("b", 0, 1.1),
    ("b", 2, -0.7),
)


def path_of(steps: Steps) -> LayerPath:
    """Return the steps as a path."""
    return LayerPath(steps=tuple(LayerStep(source=name, layer=layer, scale=scale) for name, layer, scale in steps))


def identity(source: str, n_blocks: int) -> Steps:
    """Return the path through all blocks of a model in order."""
    return tuple((source, layer, 1.0) for layer in range(n_blocks))


def window_of(family: str) -> int | None:
    """Return a small sliding window for the families that have one always, or for some blocks."""
    return WINDOW if family in ("mistral", "gemma2", "gemma3_text") else None


def two_folders(folder: Path, family: str, *, tie: bool = False, **config: Any) -> tuple[Path, Path]:
    """Save a model of two blocks and one of three, of a family; `config` changes both their config.json."""
    found = []
    for name, n_blocks, seed in (("a", 2, 0), ("b", 3, 7)):
        model = pico_llm(
            folder / name, family=family, n_blocks=n_blocks, seed=seed, sliding_window=window_of(family), tie=tie
        )
        found.append(shaken(model, seed=seed, **config))
    return found[0], found[1]


def shaken(folder: Path, *, seed: int, **config: Any) -> Path:
    """Give a saved model norms and biases that differ by channel (they begin as ones and zeros), pictures that count,
    and config settings."""
    weights = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(seed)
    for name, weight in sorted(weights.items()):
        if weight.is_floating_point() and (weight.ndim == 1 or "projector" in name or "merger" in name):
            weights[name] = (weight + 0.3 * torch.randn(weight.shape, generator=draw)).to(weight.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated.get("text_config", stated).update(config)
    path.write_text(json.dumps(stated), encoding="utf-8")
    return folder
