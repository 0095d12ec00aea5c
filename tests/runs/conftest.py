"""Pico models, small tasks, and a small search over them, shared by the tests of runs; they are only read."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml

from evovlm.evaluation.evaluator import Evaluator
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.searching.evolve import RunResult, evolve, open_evaluator
from tests.pico import pico_llm, pico_vlm

WriteConfig = Callable[..., Path]

TASK = "sums"
"""The small searches' task: an answer of 8 tokens is right if it holds a letter that only some merges say.

Nearly all the time of these tests goes into generating answers, which are short for that reason.
"""

RIGHT = {"answer": "K", "kind": "factoid"}

TASK_FILE = """
name: {name}
splits: {{search: {data}}}
columns: {{id: id, tags: kind}}
prompt: zoo-problem-{language}
metric: jdocqa
decoding: {{max_new_tokens: 8}}
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pico models: base, math and ja (LLMs of one ancestor), vlm; and a few problems."""
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base", dtype=torch.bfloat16)
    pico_llm(folder / "math", like=base, seed=1, drift=0.1, dtype=torch.bfloat16)
    pico_llm(folder / "ja", like=base, seed=2, drift=0.1, dtype=torch.bfloat16)
    pico_vlm(folder / "vlm", like=base, seed=3, drift=0.1, dtype=torch.bfloat16)
    rows = [{"id": f"p{n}", "question": f"{n} apples and none more. How many?", **RIGHT} for n in range(4, 8)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_tasks(folder, data="problems.jsonl")
    rows = [{"id": f"s{n}", "question": f"{n} pears, {n % 5} eaten. How many?", **RIGHT} for n in range(12)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_tasks(folder: Path, *, data: str) -> None:
    """Write the task file of TASK, and one that asks the same in Japanese, beside their `data`."""
    for name, language in ((TASK, "en"), (f"{TASK}_ja", "ja")):
        text = TASK_FILE.format(name=name, language=language, data=data)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def task_section(folder: Path, *, data: str = "problems.jsonl", **changes: object) -> dict[str, object]:
    """Return the section of a config for TASK, whose file and `data` are in `folder`."""
    return {"name": str(folder / f"{TASK}.yaml"), "data": str(folder / data), **changes}


def search_document(models: Path) -> dict[str, object]:
    """Return a search of 3 generations of 4 candidates as it would stand in a file."""
    return {
        "format": 1,
        "kind": "evolve",
        "seed": 3,
        "merge": {
            "base": str(models / "base"),
            "sources": {"math": str(models / "math"), "ja": str(models / "ja")},
            "method": "dare_ties",
            "seed": 1,
        },
        "space": {"kind": "model"},
        "optimizer": {"kind": "cma", "population": 4},
        "budget": {"candidates": 12},
        "tasks": [task_section(models)],
        # Tests with several workers run on a machine with one GPU, too.
        "device": "cpu",
    }


def racing_document(models: Path) -> dict[str, object]:
    """Return the small search, a generation shorter, with 12 problems to race on."""
    return {
        **search_document(models),
        "tasks": [task_section(models, data="sums.jsonl")],
        "budget": {"candidates": 8},
        "racing": {"first": 3, "limit": 1.0, "error": 0.9},
    }


@pytest.fixture
def write_config(models: Path, tmp_path: Path) -> WriteConfig:
    """Write the small search into a file of the test's folder, with some of its keys changed."""

    def write(changes: Mapping[str, object] | None = None, *, name: str = "search.yaml") -> Path:
        path = tmp_path / name
        document = {**search_document(models), **(changes or {})}
        path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def config(write_config: WriteConfig) -> EvolveConfig:
    """The small search."""
    return load_config(write_config())


@pytest.fixture(scope="session")
def evaluator(models: Path) -> Evaluator:
    """The evaluator of the small search, opened once for all tests."""
    opened = EvolveConfig.model_validate(search_document(models)).resolved(relative_to=None)
    return open_evaluator(opened)


@pytest.fixture(scope="session")
def whole_run(models: Path, evaluator: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """The small search, run through once for all tests."""
    config = EvolveConfig.model_validate(search_document(models))
    return evolve(config, out=tmp_path_factory.mktemp("runs") / "whole", evaluator=evaluator)


@pytest.fixture(scope="session")
def races(models: Path) -> EvolveConfig:
    """The small search on 12 problems, of which a candidate sees 3, 6 or 12."""
    return EvolveConfig.model_validate(racing_document(models)).resolved(relative_to=None)


@pytest.fixture(scope="session")
def racer(races: EvolveConfig) -> Evaluator:
    """Its evaluator."""
    return open_evaluator(races)


@pytest.fixture(scope="session")
def raced(races: EvolveConfig, racer: Evaluator, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """That search, run through once for all tests."""
    return evolve(races, out=tmp_path_factory.mktemp("races") / "whole", evaluator=racer)


def journal_rows(run: Path) -> list[dict[str, object]]:
    """Return a journal's lines without their `seconds`, which no two runs share."""
    rows = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if "seconds" in row:
            assert list(row)[-1] == "seconds"
            del row["seconds"]
    return rows
