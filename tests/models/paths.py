"""Paths to be run: the steps as tuples, and two small models of a family that a path may lead through."""

from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from evovlm.models.loading import LoadedModel, load_model
from evovlm.recipes.layer_path import LayerPath, LayerStep
from tests.pico import pico_llm
from tests.pico_families import TEXT_PICOS

Steps = tuple[tuple[str, int, float], ...]

LLM_FAMILIES = [name for name in TEXT_PICOS if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
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


def two_models(folder: Path, family: str) -> tuple[LoadedModel, LoadedModel]:
    """Return a model of two blocks and one of three, of a family."""
    first = pico_llm(folder / "a", family=family, n_blocks=2, sliding_window=window_of(family))
    second = pico_llm(folder / "b", family=family, n_blocks=3, seed=7, sliding_window=window_of(family))
    return load_model(first, device="cpu"), load_model(second, device="cpu")
