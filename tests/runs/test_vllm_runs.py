"""Searches and scorings with the engine `vllm`, on the embedded models; `make vllm`."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from evovlm.evaluation.engines.table import ENGINES
from evovlm.runs.folder.journal import read_journal

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(ENGINES["vllm"].version() is None, reason="vLLM is not installed"),
]
PATIENCE_S = 120
SEARCH = {
    "format": 1,
    "kind": "evolve",
    "seed": 0,
    "merge": {"base": "zoo:base", "sources": {"math": "zoo:math-a", "ja": "zoo:ja"}, "method": "dare_ties", "seed": 42},
    "space": {"kind": "model"},
    "optimizer": {"kind": "cma", "population": 4},
    "budget": {"candidates": 12},
    "tasks": [{"name": "word_problems_ja", "limit": 12}],
}


def evovlm(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "evovlm", *map(str, arguments)]
    # In a session of its own, so that a kill of the group ends its workers too, as a power cut does.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    )


def finished(*arguments: object) -> "tuple[int, str, str]":
    process = evovlm(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def descendants(pid: int) -> set[int]:
    """Return the processes that a process started, and those that they started."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, more = set(), {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more}
        found |= more
    return found


def without_seconds(journal: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "search.yaml"
    path.write_text(yaml.safe_dump(SEARCH, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("parts", [1, 2])
def test_a_killed_run_resumes_and_ends_with_the_journal_of_one_that_was_not(
    search: Path, tmp_path: Path, parts: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    asked = ("evolve", search, "--engine", "vllm", *(("--tensor-parallel", parts) if parts > 1 else ()))
    code, _, err = finished(*asked, "--out", whole)
    assert code == 0, err
    assert "note: engine: vllm" in err
    process = evovlm(*asked, "--out", killed)
    journal = killed / "journal.jsonl"
    while process.poll() is None and (not journal.exists() or len(read_journal(journal).candidates) < 5):
        time.sleep(0.01)
    started = descendants(process.pid)
    assert len(started) >= (1 if parts == 1 else 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{each}").exists() for each in started):
        assert time.monotonic() < deadline, "processes outlive the run"
        time.sleep(0.1)
    assert 5 <= len(read_journal(journal).candidates) < 12
    code, _, err = finished("evolve", search, "--engine", "builtin", "--out", killed, "--resume")
    assert code == 2
    assert "A run never mixes engines" in err
    if parts > 1:
        code, _, err = finished("evolve", search, "--tensor-parallel", 1, "--out", killed, "--resume")
        assert code == 2
        assert "vllm with tensor_parallel: 2, and tensor_parallel: 1 was asked for" in err
    # `auto`: the run keeps its engine, and the number of parts.
    code, _, err = finished("evolve", search, "--out", killed, "--resume")
    assert code == 0, err
    assert without_seconds(journal) == without_seconds(whole / "journal.jsonl")
    engine = read_journal(journal).engine
    assert (engine.name, engine.tensor_parallel) == ("vllm", parts)


def test_models_and_recipes_are_scored_as_by_builtin(search: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    merge = {**SEARCH["merge"], "format": 1, "kind": "parameter_merge"}  # type: ignore[dict-item]
    merge["parameters"] = {"math": {"weight": 0.6, "density": 0.8}, "ja": {"weight": 0.7, "density": 0.8}}
    recipe.write_text(yaml.safe_dump(merge, sort_keys=False), encoding="utf-8")
    arguments = ["zoo:base+zoo:lora-math-a", recipe, "--task", "word_problems_ja", "--limit", "40", "--json"]
    found = {}
    for engine, parts in (("vllm", 1), ("builtin", 1), ("vllm", 2)):
        saved = tmp_path / (engine if parts == 1 else "divided")
        options = ("--engine", engine, "--tensor-parallel", parts, "--save", saved)
        code, out, err = finished("score", *arguments, *options)
        assert code == 0, err
        found[saved.name] = {
            model: each["word_problems_ja"]["score"] for model, each in json.loads(out)["models"].items()
        }
        assert len(set(found[saved.name].values())) == 2
    assert found["vllm"] == found["builtin"] == found["divided"]
    assert json.loads((tmp_path / "vllm" / "summary.json").read_text())["settings"]["engine"].startswith("vllm ")
    code, _, err = finished("score", *arguments, "--engine", "builtin", "--save", tmp_path / "vllm", "--resume")
    assert code == 2, err
