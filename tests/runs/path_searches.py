"""Small searches through the layers of pico models, as documents and run through."""

import json
from pathlib import Path

from evovlm.runs.folder.entries import Entry
from evovlm.search.loop import Generation
from tests.runs.conftest import RIGHT, task_section, write_tasks


def write_problems(folder: Path) -> Path:
    """Write ten questions of the small searches' task; return the file."""
    rows = [{"id": f"p{n}", "question": f"{n} apples and none more. How many?", **RIGHT} for n in range(10)]
    path = folder / "ten-problems.jsonl"
    write_tasks(folder, data=path.name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def path_document(models: Path, problems: Path) -> dict[str, object]:
    """Return a search of 3 generations of 4 candidates, each scored on 3 of the first 6 problems."""
    return {
        "format": 1,
        "kind": "evolve",
        "seed": 5,
        "merge": {
            "kind": "layer_path",
            "host": str(models / "base"),
            "sources": {"base": str(models / "base"), "math": str(models / "math"), "ja": str(models / "ja")},
            "scale_target": "pending",
        },
        "space": {"kind": "path", "repetitions": 2, "scales": "per_position"},
        "optimizer": {"kind": "cma_margin", "population": 4, "sigma": 0.3},
        "budget": {"candidates": 12},
        "tasks": [task_section(problems.parent, data=problems.name)],
        "batch": 3,
        "validation": 4,
        "winner": "snapshot",
    }


def hybrid_document(models: Path, problems: Path) -> dict[str, object]:
    """Return a hybrid of 2 generations of 4 candidates in each stage."""
    path = path_document(models, problems)
    stage = {key: path[key] for key in ("space", "optimizer", "batch", "validation", "winner")}
    return {
        "format": 1,
        "kind": "hybrid",
        "seed": 3,
        "tasks": path["tasks"],
        "stages": {
            "ps": {
                "merge": {
                    "base": str(models / "base"),
                    "sources": {"math": str(models / "math"), "ja": str(models / "ja")},
                    "method": "dare_ties",
                    "seed": 1,
                },
                "space": {"kind": "layer"},
                "optimizer": {"kind": "cma", "population": 4},
                "budget": {"candidates": 8},
            },
            "path": {
                "merge": {"kind": "layer_path", "sources": {"ja": str(models / "ja")}, "scale_target": "stream"},
                "budget": {"candidates": 8},
                **stage,
            },
        },
    }


class StopAt:
    """An observer that behaves like Ctrl-C at the candidate of index `stop`."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        """Nothing."""

    def evaluated(self, entry: Entry) -> None:
        """Stop there."""
        if entry.index == self.stop:
            raise KeyboardInterrupt

    def generation_ended(self, generation: Generation) -> None:
        """Nothing."""
