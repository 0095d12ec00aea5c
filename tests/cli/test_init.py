"""`evovlm init`: a commented config that passes `evovlm check`, from flags or from answers on a terminal."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evovlm.runs.config.hybrid import load_search
from tests.cli.conftest import Command
from tests.tasks.test_own_folder import picture_folder

LLM = ("init", "llm", "--base", "zoo:base", "--source", "math=zoo:math-a", "--source", "zoo:ja")
PATIENCE_S = 60.0


def test_a_search_of_embedded_language_models_passes_check(evovlm: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    made = evovlm(*LLM, "--task", "word_problems_ja", "--budget", "50", "--out", out)
    assert made.code == 0, made
    assert made.out.startswith(f"{out}\n")
    checked = evovlm("check", out)
    assert checked.code == 0, checked
    config = yaml.safe_load(out.read_text())
    assert config["merge"]["sources"] == {"math": "zoo:math-a", "ja": "zoo:ja"}
    assert config["budget"] == {"candidates": 50}
    assert sum("#" in line for line in out.read_text().splitlines()) > 10


def test_a_budget_of_few_or_broken_generations_is_written_and_warned_about(evovlm: Command, tmp_path: Path) -> None:
    made = evovlm(*LLM, "--task", "word_problems_ja", "--budget", "25", "--out", tmp_path / "mine.yaml")
    assert made.code == 0, made
    assert "budget.candidates: 25 is rounded down to 22, whole generations of 11." in made.err
    assert "Set it to 55 (5 generations) or more." in made.err
    checked = evovlm("check", tmp_path / "mine.yaml")
    assert all(line.removeprefix("warning: ") in checked.out for line in made.err.splitlines())


def test_a_search_of_an_embedded_vlm_passes_check(evovlm: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    flags = ("--base", "zoo:base", "--host", "zoo:vlm", "--source", "zoo:ja", "--task", "emoji_ja")
    made = evovlm("init", "vlm", *flags, "--out", out, "--json")
    assert json.loads(made.out)["sources"] == {"vlm": "zoo:vlm", "ja": "zoo:ja"}
    assert evovlm("check", out).code == 0
    assert yaml.safe_load(out.read_text())["merge"]["host"] == "zoo:vlm"


@pytest.mark.parametrize("kind", ["llm", "vlm"])
def test_own_models_and_own_data_are_found_from_the_config_s_folder(
    evovlm: Command, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "my photos", tables=("search.csv",))
    (tmp_path / "configs").mkdir()
    text = tmp_path / "sums.yaml"
    (tmp_path / "sums.csv").write_text("question,answer\n1+1?,2\n", encoding="utf-8")
    text.write_text("name: sums\nsplits: {search: sums.csv}\nmetric: accuracy\nprompt: '{input}'\n")
    task = "./my photos" if kind == "vlm" else "sums.yaml"
    vlm = shutil.copytree(models / "vlm", tmp_path / "vlm")
    (vlm / "chat_template.jinja").write_text("<image>{{ messages[0]['content'][-1]['text'] }}")
    host = ("--host", str(vlm)) if kind == "vlm" else ()
    flags = ("--base", str(models / "base"), "--source", str(models / "ja"), "--task", task, *host)
    made = evovlm("init", kind, *flags, "--out", "configs/mine.yaml")
    assert made.code == 0, made
    monkeypatch.chdir(tmp_path / "configs")
    config = load_search(Path("mine.yaml"))
    assert config.template(relative_to=Path()).sources["ja"].resolve().resolve() == (models / "ja").resolve()
    # These models have two blocks, too few for a curve through three knots.
    written = Path("mine.yaml").read_text(encoding="utf-8")
    Path("mine.yaml").write_text(written.replace("knots: 3", "knots: 2"), encoding="utf-8")
    checked = evovlm("check", "mine.yaml")
    assert checked.code == 0, checked


def test_a_folder_beside_the_config_in_the_current_folder_is_found(
    evovlm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture_folder(tmp_path / "photos", tables=("search.csv",))
    flags = ("--base", "zoo:base", "--host", "zoo:vlm", "--source", "zoo:ja", "--task", "./photos")
    assert evovlm("init", "vlm", *flags, "--out", "mine.yaml").code == 0
    config = load_search(Path("mine.yaml")).resolved(relative_to=Path())
    assert config.tasks[0].name == str(tmp_path / "photos")


def test_an_existing_file_is_never_overwritten(evovlm: Command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    out.write_text("mine")
    made = evovlm(*LLM, "--task", "word_problems_ja", "--out", out)
    assert made.code == 2
    assert "exists already and is not overwritten" in made.err
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("init",), "llm or vlm, --base, --source, --task: missing, and there is no terminal"),
        (("init", "vlm", "--base", "zoo:base"), "--source, --task, --host: missing"),
        (("init", "mlp", "--base", "b", "--source", "c", "--task", "t"), "'mlp' is neither llm"),
        ((*LLM, "--task", "word_problem_ja"), "did you mean 'word_problems_ja'?"),
        ((*LLM, "--task", "mgsm_ja"), "has only a report split"),
        ((*LLM, "--task", "word_problems_ja", "--source", "math=zoo:math-b"), "two sources would be called 'math'"),
        ((*LLM, "--task", "word_problems_ja", "--source", "zoo:maths"), "no such model"),
        ((*LLM, "--task", "word_problems_ja", "--budget", "2"), "budget.candidates is 2"),
        ((*LLM, "--task", "./nothing"), "nothing"),
    ],
)
def test_a_problem_is_reported_and_nothing_written(
    evovlm: Command, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    made = evovlm(*flags, "--out", tmp_path / "mine.yaml")
    assert made.code == 2, made
    assert made.err.startswith("error: ")
    assert says in made.err
    assert ".partial" not in made.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_reported(evovlm: Command, tmp_path: Path) -> None:
    made = evovlm(*LLM, "--task", "word_problems_ja", "--out", tmp_path / "none" / "mine.yaml")
    assert (made.code, "cannot be written" in made.err) == (2, True)


def test_a_terminal_is_asked_for_what_the_flags_leave_open(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evovlm", "init", "--out", str(tmp_path / "mine.yaml")]
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    os.close(terminal)
    try:
        # Every answer is the default, but for the sources: one is named, then nothing more.
        os.write(main, b"llm\n\nzoo:ja\n\n\n50\n\n")
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        os.close(main)
    assert process.returncode == 0, err
    assert out.startswith(str(tmp_path / "mine.yaml"))
    assert "how many candidates" in err
    config = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert config["merge"]["sources"] == {"ja": "zoo:ja"}
    assert config["tasks"] == [{"name": "word_problems_ja"}]
    assert config["budget"] == {"candidates": 50}
