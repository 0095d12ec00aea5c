"""What a command imports: torch and transformers, which take seconds, only once a model is to be loaded."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import write_config
from tests.cli.test_check import write_recipe

RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from evovlm.cli.app import main

found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["evovlm", *arguments]
    code = 0
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            main()
    except SystemExit as ended:
        code = ended.code
    found.append([code, said.getvalue(), sorted(sys.modules)])
print(json.dumps(found))
"""
HEAVY = {"torch", "torchvision", "transformers", "open_clip", "evaluate", "pandas", "cma", "scipy.stats"}
TASKS = ("--task", "word_problems_ja")


def imported(commands: Sequence[Sequence[str | Path]], *, code: int) -> list[set[str]]:
    """Run commands one after the other in one new process, and return what is imported after each."""
    arguments = json.dumps([[str(word) for word in words] for words in commands])
    done = subprocess.run([sys.executable, "-c", RUN_ALL, arguments], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for words, (ended, said, _) in zip(commands, found, strict=True):
        assert (ended or 0) == code, (words, said)
    return [set(modules) for _, _, modules in found]


def check_light(commands: Sequence[Sequence[str | Path]], *, code: int) -> None:
    for words, modules in zip(commands, imported(commands, code=code), strict=True):
        assert HEAVY & modules == set(), words


@pytest.fixture(scope="module")
def looked(
    finished_once: Path, models: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, set[str]]]:
    """Commands in one process, each with what is imported after it: first `check` of a search, last `report`."""
    folder, run = tmp_path_factory.mktemp("looked"), finished_once / "run"
    config = write_config(folder / "search.yaml", models=models, problems=problems)
    recipe = write_recipe(folder, base=models / "base", source=models / "math")
    answers = folder / "answers.jsonl"
    answers.write_text('{"prediction": "5", "reference": "5"}\n')
    commands: list[list[str | Path]] = [
        ["check", config],
        ["--version"],
        ["methods"],
        ["optimizers"],
        ["spaces"],
        ["tasks"],
        ["zoo"],
        ["check", recipe],
        ["show", recipe],
        ["show", run],
        ["export", run, "--pick", "best"],
        ["export", recipe, "--format", "mergekit"],
        ["grade", answers, "--metric", "accuracy"],
        ["init", "llm", "--base", "zoo:base", "--source", "zoo:ja", *TASKS, "--out", folder / "new.yaml"],
        ["report", run, "--out", folder / "page.html"],
    ]
    return [(str(words[0]), modules) for words, modules in zip(commands, imported(commands, code=0), strict=True)]


def test_what_looks_and_checks_imports_no_torch(looked: list[tuple[str, set[str]]]) -> None:
    for command, modules in looked[:-1]:
        assert HEAVY & modules == set(), command


def test_a_mistake_in_the_arguments_is_reported_before_torch_is_imported(
    finished: Path, config: Path, models: Path, problems: Path, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    wrong = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, device="cuda:99")
    shutil.copytree(models / "base", tmp_path / "taken")
    check_light(
        [
            ["evolve", nothing, "--out", tmp_path / "run1"],
            ["evolve", config, "--out", finished],
            ["evolve", wrong, "--out", tmp_path / "run2"],
            ["evolve", config, "--out", tmp_path / "run3", "--checkpoint", tmp_path / "taken"],
            ["check", nothing],
            ["demo", "--only", "evollmm"],
            ["watch", nothing],
            ["show", nothing],
            ["report", nothing],
            ["report", finished, "--lang", "fr"],
            ["merge", nothing, "--out", tmp_path / "merged"],
            ["export", nothing, "--pick", "best"],
            ["score", "zoo:jaa", *TASKS],
            ["score", nothing, *TASKS],
            ["score", "zoo:ja", "--task", "word_problem"],
            ["score", "zoo:ja", *TASKS, "--split", "test"],
            ["score", "zoo:ja", *TASKS, "--prompt", "no-such-prompt"],
            ["score", "zoo:ja", *TASKS, "--device", "cuda:99"],
            ["score", "zoo:ja", *TASKS, "--save", tmp_path / "taken"],
            ["ask", nothing, "3+4"],
            ["ask", "zoo:jaa", "3+4"],
            ["ask", "zoo:ja", "3+4", "--prompt", "no-such-prompt"],
            ["ask", "zoo:ja", "3+4", "--device", "cuda:99"],
            ["ask", "zoo:ja", "3+4", "--image", nothing],
            ["grade", nothing],
            ["convert", nothing, "--out", tmp_path / "converted"],
            ["push", nothing, "a/b", "--dry-run"],
        ],
        code=2,
    )


def test_a_page_is_made_without_torch(looked: list[tuple[str, set[str]]]) -> None:
    command, modules = looked[-1]
    assert command == "report"
    assert modules & {"torch", "transformers", "open_clip"} == set()


def test_a_search_s_task_is_read_without_the_package_datasets(looked: list[tuple[str, set[str]]]) -> None:
    command, modules = looked[0]
    assert command == "check"
    assert modules & {"datasets", "pyarrow"} == set()


@pytest.mark.slow
def test_the_folder_of_loaded_sets_is_that_of_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import datasets; from evovlm.tasks.hub import loaded_sets;"
        "print(datasets.config.HF_DATASETS_CACHE, loaded_sets())"
    )
    for variables in ({}, {"HF_HOME": "~/hf"}, {"XDG_CACHE_HOME": str(tmp_path)}, {"HF_DATASETS_CACHE": str(tmp_path)}):
        with monkeypatch.context() as changed:
            for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_DATASETS_CACHE"):
                changed.delenv(name, raising=False)
            for name, value in variables.items():
                changed.setenv(name, value)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        theirs, ours = done.stdout.split()
        assert theirs == ours
