"""Pico models and small task files shared by the tests of evaluation; they are only read."""

import json
from pathlib import Path

import pytest
import torch

from tests.pico import pico_llm, pico_vlm


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pico models as the zoo stores them (bfloat16): base, math and ja (LLMs of one ancestor), vlm."""
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base", dtype=torch.bfloat16)
    pico_llm(folder / "math", like=base, seed=1, drift=0.1, dtype=torch.bfloat16)
    pico_llm(folder / "ja", like=base, seed=2, drift=0.1, dtype=torch.bfloat16)
    pico_vlm(folder / "vlm", like=base, seed=3, drift=0.1, dtype=torch.bfloat16)
    return folder


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six word problems in the zoo's format."""
    path = tmp_path_factory.mktemp("tasks") / "problems.jsonl"
    rows = [
        {
            "id": f"p{number}",
            "question": f"あめが{number}個あります。{'もう' * number}2個もらいました。何個ですか。",
            "answer": f"{number}+2={number + 2}個。答えは{number + 2}個です。",
            "number": number + 2,
            "tags": [f"steps-{1 + number % 2}"],
        }
        for number in range(6)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five questions about three pictures in the zoo's format."""
    path = tmp_path_factory.mktemp("tasks") / "pictures.jsonl"
    emoji = ["🗻", "🍑", "🐧", "🗻", "🍑"]
    names = ["富士山", "桃", "ペンギン", "富士山", "桃"]
    rows = [
        {
            "id": f"e{number}",
            "question": "何が写っていますか?" if number % 2 else "何の絵ですか?",
            "answer": names[number],
            "tags": ["culture", "openmoji"] if names[number] == "富士山" else ["openmoji"],
            "picture": {
                "artist": "openmoji",
                "background": ["#2068e6"],
                "objects": [{"emoji": emoji[number], "x": 32, "y": 32, "size": 48, "rotation": 0}],
            },
        }
        for number in range(5)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
