"""Pico models, a few word problems, and configs of searches over them, shared by the tests of the commands."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import torch
import typer
import yaml

from evovlm.cli.app import app, main
from evovlm.runs.config.kinds import load_config
from evovlm.runs.searching.evolve import evolve
from tests.pico import pico_llm, pico_vlm


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pico models that are only read: base, math and ja (LLMs of one ancestor), vlm."""
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base")
    pico_llm(folder / "math", like=base, seed=1, drift=0.1)
    pico_llm(folder / "ja", like=base, seed=2, drift=0.1)
    pico_vlm(folder / "vlm", like=base, seed=3, drift=0.1)
    return folder


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three word problems in the zoo's format."""
    path = tmp_path_factory.mktemp("tasks") / "problems.jsonl"
    for file, other in ((path, 2), (path.with_name("reported.jsonl"), 3)):
        rows = [{"id": f"p{n}", "question": f"{n}と{other}で?", "number": n + other, "tags": []} for n in range(3)]
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for name, language in ((TASK, "ja"), (f"{TASK}_en", "en")):
        path.with_name(f"{name}.yaml").write_text(TASK_FILE.format(name=name, language=language), encoding="utf-8")
    return path


TASK = "short_problems"
"""The small search's task: word problems with answers of 8 tokens instead of 72, as generating them takes the time."""

TASK_FILE = """
name: {name}
splits: {{search: problems.jsonl, report: reported.jsonl}}
columns: {{answer: number, id: id}}
prompt: zoo-problem-{language}
metric: accuracy
gate: script
decoding: {{max_new_tokens: 8}}
"""


@pytest.fixture
def config(models: Path, problems: Path, tmp_path: Path) -> Path:
    """The config of a search of 8 candidates in 2 generations."""
    return write_config(tmp_path / "search.yaml", models=models, problems=problems)


@pytest.fixture(scope="session")
def finished_once(models: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a search.yaml and its finished run in run/; only read."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder / "search.yaml", models=models, problems=problems)
    evolve(load_config(config), out=folder / "run")
    return folder


@pytest.fixture
def finished(finished_once: Path, config: Path, tmp_path: Path) -> Path:
    """The finished run of `config`, in a copy to change as one likes."""
    return shutil.copytree(finished_once / "run", tmp_path / "run")


def short_task(problems: Path, name: str = TASK, **changes: object) -> dict[str, object]:
    """Return the small search's task as it stands in a config."""
    return {"name": str(problems.with_name(f"{name}.yaml")), "data": str(problems), **changes}


def write_config(path: Path, *, models: Path, problems: Path, **changes: object) -> Path:
    """Write the config of a small search; `changes` replace whole keys of it."""
    document: dict[str, object] = {
        "format": 1,
        "kind": "evolve",
        "seed": 7,
        "merge": {
            "base": str(models / "base"),
            "sources": {"math": str(models / "math"), "ja": str(models / "ja")},
            "method": "dare_ties",
        },
        "optimizer": {"kind": "cma", "population": 4},
        "budget": {"candidates": 8},
        "tasks": [short_task(problems)],
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump({**document, **changes}, sort_keys=False), encoding="utf-8")
    return path


class Outcome(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def evovlm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process, from its entry point on."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["evovlm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        printed = capsys.readouterr()
        return Outcome(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


def commands() -> Mapping[str, click.Command]:
    """Every command of the app by the words that call it."""

    def walk(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
        inner: Mapping[str, click.Command] = getattr(command, "commands", {})
        if words:
            yield " ".join(words), command
        for name, each in inner.items():
            yield from walk(each, (*words, name))

    return dict(walk(typer.main.get_command(app), ()))
