"""Pico models shared by the tests of models; they are only read."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from evovlm.models.loading import LoadedModel, load_model
from tests.pico import pico_llm, pico_vlm


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Mistral of three blocks, stored in bfloat16."""
    return pico_llm(tmp_path_factory.mktemp("models") / "llm", n_blocks=3, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico LLaVA."""
    return pico_vlm(tmp_path_factory.mktemp("models") / "vlm")


@pytest.fixture(scope="session")
def llm(llm_folder: Path) -> LoadedModel:
    """The pico Mistral, loaded."""
    return load_model(llm_folder, device="cpu")


@pytest.fixture(scope="session")
def vlm(vlm_folder: Path) -> LoadedModel:
    """The pico LLaVA, loaded."""
    return load_model(vlm_folder, device="cpu")


@pytest.fixture(scope="session")
def images() -> dict[str, Image.Image]:
    """Three pictures that differ."""
    colours = {"red": (200, 30, 20), "green": (10, 180, 60), "blue": (20, 40, 220)}
    pictures = {name: Image.new("RGB", (40, 48), colour) for name, colour in colours.items()}
    pictures["red"].paste((255, 255, 255), (5, 5, 20, 30))
    return pictures
