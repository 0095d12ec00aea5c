"""A command reads its config once, each of a user's task files once, and the samples of each split once."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.cli.conftest import Command, write_config

OPENED: Counter[str] = Counter()
CONFIG = "search.yaml"
NAMES = ("own.yaml", "train.jsonl", "test.jsonl")


def _count(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith((CONFIG, *NAMES)):
        OPENED[Path(str(arguments[0])).name] += 1


# An audit hook stays for the life of the process.
sys.addaudithook(_count)


@pytest.fixture
def opened() -> Counter[str]:
    """How often each file was opened, by its name."""
    OPENED.clear()
    return OPENED


@pytest.fixture
def search(models: Path, problems: Path, tmp_path: Path) -> Path:
    """The config of a search on a user's own task."""
    for name in ("train", "test"):
        rows = [{"id": f"{name}{n}", "question": f"{name} {n}?", "answer": n} for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        "name: own\nsplits: {search: train, report: test}\nprompt: zoo-problem-en\nmetric: accuracy\n"
        "decoding: {max_new_tokens: 4}\n",
        encoding="utf-8",
    )
    return write_config(tmp_path / "search.yaml", models=models, problems=problems, tasks=[{"name": "own.yaml"}])


@pytest.mark.parametrize("command", ["check", "evolve"])
def test_a_command_reads_its_config_once(
    evovlm: Command, search: Path, opened: Counter[str], tmp_path: Path, command: str
) -> None:
    opened.clear()
    options = ["--out", tmp_path / "run"] if command == "evolve" else []
    assert evovlm(command, search, *options).code == 0
    assert opened[CONFIG] == 1


def test_a_search_reads_a_task_and_its_samples_once(
    evovlm: Command, search: Path, opened: Counter[str], tmp_path: Path
) -> None:
    assert evovlm("evolve", search, "--out", tmp_path / "run").code == 0
    assert {name: opened[name] for name in NAMES} == {
        "own.yaml": 1,
        "train.jsonl": 1,
        "test.jsonl": 1,
    }


def test_a_changed_task_is_read_again(evovlm: Command, search: Path, opened: Counter[str], tmp_path: Path) -> None:
    assert evovlm("check", search).code == 0
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "seen", "question": "test 0?", "answer": 0}) + "\n")
    opened.clear()
    assert "a search on own sees 1 of the report samples" in evovlm("check", search).out
    assert {name: opened[name] for name in NAMES} == {
        "own.yaml": 0,
        "train.jsonl": 1,
        "test.jsonl": 0,
    }
