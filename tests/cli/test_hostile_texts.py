"""Texts of strangers that a terminal or a browser would obey are only shown."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import TASK, Command, Outcome, short_task, write_config

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\u2066[bold]\\immediate\\write18{touch owned}"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def inert(done: Outcome) -> Outcome:
    """Check that nothing printed is a command to the terminal or turns the direction of writing."""
    assert done.code in (0, 2), done
    assert OBEYED.findall(done.out + done.err) == []
    return done


@pytest.fixture
def hostile(models: Path, problems: Path, tmp_path: Path) -> Path:
    """The config of a search whose source's folder, card and config say what a terminal obeys."""
    model = tmp_path / f"model{EVIL.replace('/', '')}"
    shutil.copytree(models / "math", model)
    (model / "README.md").write_text(f"---\nlicense: {json.dumps(EVIL)}\n---\n", encoding="utf-8")
    merge = {"base": str(models / "base"), "sources": {"math": str(model), "ja": str(models / "ja")}}
    tasks = [short_task(problems)]
    return write_config(
        tmp_path / "search.yaml", models=models, problems=problems, tasks=tasks, merge={**merge, "method": "dare_ties"}
    )


def test_models_and_cards_are_shown_inert(evovlm: Command, hostile: Path) -> None:
    for flags in ([], ["--json"]):
        assert "owned" in inert(evovlm("check", hostile, *flags)).out


def test_a_broken_model_is_refused_inertly(evovlm: Command, hostile: Path, tmp_path: Path) -> None:
    (model,) = (path for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("model"))
    (model / "config.json").write_text(json.dumps({"model_type": EVIL, "num_hidden_layers": EVIL}), encoding="utf-8")
    for words in (["check", hostile], ["evolve", hostile, "--out", tmp_path / "run"], ["ask", model, "x"]):
        assert inert(evovlm(*words)).code == 2


def test_failures_of_a_run_are_shown_inert(evovlm: Command, finished: Path) -> None:
    lines = (finished / "journal.jsonl").read_text().splitlines()
    failed = json.loads(lines[3])
    for key in ("fitness", "tokens", "scores"):
        del failed[key]
    failed |= {"status": "failed", "failure": {"kind": "not_finite", "reason": EVIL}}
    lines[3] = json.dumps(failed | {"seconds": failed.pop("seconds")})
    (finished / "journal.jsonl").write_text("\n".join(lines) + "\n")
    for words in (["show", finished], ["show", finished, "--json"], ["report", finished], ["watch", finished]):
        assert inert(evovlm(*words)).code == 0
    assert OBEYED.findall((finished / "report.html").read_text(encoding="utf-8")) == []


def test_answers_and_their_tasks_are_shown_inert(evovlm: Command, tmp_path: Path) -> None:
    rows = [{"id": EVIL, "task": f"{TASK}{EVIL}", "text": EVIL, "answer": "1", "tags": [EVIL]} for _ in range(2)]
    for name in ("one", f"two{EVIL}"):
        lines = (json.dumps({**row, "id": f"{number}{EVIL}"}) + "\n" for number, row in enumerate(rows))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = sorted(tmp_path.glob("*.jsonl"))
    for flags in ([], ["--json"]):
        assert inert(evovlm("grade", *files, "--metric", "accuracy", *flags)).code == 0
    inert(evovlm("grade", *files, "--metric", EVIL))
