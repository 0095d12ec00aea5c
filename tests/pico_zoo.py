"""The embedded zoo in pico: every model and task file that the demo asks for, and the real configs."""

import json
import shutil
from pathlib import Path

import torch

from tests.pico import pico_llm, pico_vlm

CONFIGS = Path(__file__).parents[1] / "configs"


def pico_zoo(assets: Path) -> Path:
    """Build pico assets in `assets`, as the wheel lays them out, and return the folder."""
    zoo = assets / "zoo"
    base = pico_llm(zoo / "base", dtype=torch.bfloat16)
    for seed, name in enumerate(("math-a", "math-b", "ja"), start=1):
        pico_llm(zoo / name, like=base, seed=seed, drift=0.1, dtype=torch.bfloat16)
    pico_vlm(zoo / "vlm", like=base, seed=4, drift=0.1, dtype=torch.bfloat16)
    (zoo / "tasks").mkdir()
    for split in ("search", "report"):
        problems = [
            {"id": f"{split}-{n}", "question": f"あめが{n}個。あと何個?", "number": n, "tags": ["steps-1"]}
            for n in range(4)
        ]
        write_rows(zoo / f"tasks/word_problems_ja.{split}.jsonl", problems)
        write_rows(zoo / f"tasks/emoji_ja.{split}.jsonl", [picture_row(split, n) for n in range(4)])
    shutil.copytree(CONFIGS, assets / "configs")
    return assets


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def picture_row(split: str, number: int) -> dict[str, object]:
    """Return a question about a picture, as emoji_ja has them."""
    emoji, name = (("🗻", "富士山"), ("🍑", "桃"))[number % 2]
    return {
        "id": f"{split}-{number}",
        "question": "何の絵ですか?",
        "answer": name,
        "tags": ["openmoji", "culture"] if number % 2 == 0 else ["openmoji"],
        "picture": {
            "artist": "openmoji",
            "background": ["#2068e6"],
            "objects": [{"emoji": emoji, "x": 32, "y": 32, "size": 40 + number, "rotation": 0}],
        },
    }
