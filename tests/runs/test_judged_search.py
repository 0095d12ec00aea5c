"""A search whose fitness a judge gives: only with a budget of calls, which a resumed run counts on."""

import json
from pathlib import Path
from typing import Any

import pytest

from evovlm.cli.evolve import _score_commands
from evovlm.errors import ConfigError, JudgeStopped
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.kinds import load_config
from evovlm.runs.searching.evolve import evolve
from tests.judge_server import JudgeServer, says
from tests.runs.conftest import WriteConfig

pytest.importorskip("openai")


@pytest.fixture
def task(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A task file of two problems that a judge scores."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    rows = [{"id": f"p{n}", "question": f"{n} apples?", "answer": "K"} for n in range(2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = tmp_path / "judged.yaml"
    path.write_text(
        "name: judged\nsplits: {search: rows.jsonl}\nprompt: zoo-problem-en\nmetric: judge\n"
        "columns: {id: id}\ndecoding: {max_new_tokens: 4}\n",
        encoding="utf-8",
    )
    return str(path)


def changes(task: str, url: str, **more: Any) -> dict[str, object]:
    return {"tasks": [{"name": task}], "judge": {"model": "gpt-x", "url": url}, **more}


def test_a_search_stops_when_the_budget_is_used_up_and_resumes_to_the_same_journal(
    write_config: WriteConfig, task: str, tmp_path: Path
) -> None:
    with JudgeServer(lambda body: says("4" if len(str(body)) % 2 else "2")) as server:
        small = load_config(write_config(changes(task, server.url, judge_calls=5)))
        with pytest.raises(JudgeStopped, match="called 5 times, which is its budget"):
            evolve(small, out=tmp_path / "run")
        assert len(server.requests) == 5
        large = load_config(write_config(changes(task, server.url, judge_calls=1000)))
        evolve(large, out=tmp_path / "run", resume=True)
        n_calls = len(server.requests)
        assert (tmp_path / "run" / "judge-calls").stat().st_size == n_calls
        evolve(large, out=tmp_path / "whole")
        # Every verdict was kept.
        assert len(server.requests) == n_calls
    journals = [
        [
            {key: value for key, value in json.loads(line).items() if "_s" not in key and key != "time"}
            for line in (tmp_path / run / "journal.jsonl").read_text("utf-8").splitlines()
        ]
        for run in ("run", "whole")
    ]
    scores = [[entry.get("fitness") for entry in journal] for journal in journals]
    assert scores[0] == scores[1]
    assert "judge_calls" not in (tmp_path / "run" / "config.yaml").read_text("utf-8")


def test_a_judge_without_a_budget_is_refused_by_check_and_evolve(
    write_config: WriteConfig, task: str, tmp_path: Path
) -> None:
    config = load_config(write_config(changes(task, "http://127.0.0.1:1/v1"))).resolved(relative_to=tmp_path)
    assert any("judge_calls: missing" in str(problem) for problem in preflight_search(config).problems)
    with pytest.raises(ConfigError, match="judge_calls: missing"):
        evolve(config, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"judge": None}, "judge: is missing: a judge scores the task judged"),
        ({"workers": 2}, "counts its calls in one process"),
        ({"judge": {"model": ""}}, "judge.model"),
        ({"judge": {"model": "m", "url": "file:///etc"}}, "judge.url"),
        ({"judge": {"model": "m", "url": "http://me:secret@host/v1"}}, "judge.url"),
        ({"judge": {"model": "m", "key": "sk-1"}}, "judge.key: unknown key"),
        ({"judge_calls": 0}, "judge_calls"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(
    write_config: WriteConfig, task: str, more: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(write_config({**changes(task, "http://127.0.0.1:1/v1", judge_calls=9), **more}))


def test_the_command_that_scores_the_winner_names_the_judge(write_config: WriteConfig, task: str) -> None:
    reported = [{"name": "jammeval_heron", "limit": 2}, {"name": "mgsm_ja"}]
    config = load_config(write_config(changes(task, "http://127.0.0.1:1/v1", judge_calls=9, report=reported)))
    judged, plain = _score_commands(config, Path("model"))
    assert judged.endswith("--limit 2 --judge gpt-x --judge-url http://127.0.0.1:1/v1")
    assert "--judge" not in plain
