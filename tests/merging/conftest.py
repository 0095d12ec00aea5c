"""Pico models shared by the tests of merging; they are only read."""

from pathlib import Path

import pytest
import torch

from tests.pico import pico_llm, pico_vlm


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pico models: base, math and ja (LLMs of one ancestor), vlm (with 5 more rows), and odd ones."""
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base")
    pico_llm(folder / "math", like=base, seed=1)
    pico_llm(folder / "ja", like=base, seed=2)
    pico_vlm(folder / "vlm", like=base, seed=3)
    pico_llm(folder / "base16", like=base, seed=0, drift=0.0, dtype=torch.bfloat16)
    pico_llm(folder / "math16", like=base, seed=1, dtype=torch.bfloat16, max_shard_size="40KB")
    pico_llm(folder / "deeper", n_blocks=3)
    pico_llm(folder / "tied", tie=True)
    pico_llm(folder / "tied2", tie=True, like=folder / "tied", seed=4)
    pico_vlm(folder / "tied-vlm", tie=True, like=folder / "tied", seed=5)
    pico_llm(folder / "other-rope", like=base, seed=6, rope_theta=1e6, sliding_window=64)
    return folder
