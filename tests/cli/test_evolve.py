"""`evovlm evolve` on pico models."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.documents import load_recipe
from tests.cli.conftest import TASK, TASK_FILE, Command, short_task, write_config

FILES = {"config.yaml", "journal.jsonl", "best.yaml", "mean.yaml", "result.json"}


def test_a_search_fills_its_folder_and_prints_its_generations_and_what_to_type_next(
    evovlm: Command, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = evovlm("evolve", config, "--out", run)
    assert done.code == 0, done.err
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == FILES
    assert f"evovlm merge {run / 'best.yaml'}" in done.out
    assert f"evovlm show {run}" in done.out
    assert f"evovlm report {run} --score" in done.out
    # Off a terminal, progress is one plain line a generation on stderr.
    warning, *lines = done.err.splitlines()
    assert warning.startswith("warning: budget.candidates: 8 candidates")
    assert len(lines) == 2, done.err
    assert lines[0].startswith("search: generation 1/2, best ")
    assert "mean" in lines[0]
    assert lines[0].endswith("left")
    assert "\x1b" not in done.err


def test_what_to_type_next_scores_the_winner_on_what_is_reported(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    numbers = tmp_path / "my problems.jsonl"
    numbers.write_text('{"id": "a", "question": "7と8で?", "number": 15, "answer_number": 15}\n', encoding="utf-8")
    search_only = TASK_FILE.format(name="mine", language="ja").replace(", report: reported.jsonl", "")
    (tmp_path / "mine.yaml").write_text(search_only.replace("problems.jsonl", numbers.name), encoding="utf-8")
    tasks = [{"name": str(tmp_path / "mine.yaml")}]
    config = tmp_path / "search.yaml"
    for report, commands in (
        # This task has no report split: nothing that would be refused is advised.
        ([], []),
        ([{"name": "mgsm_ja", "data": str(numbers)}], [["--task", "mgsm_ja", "--data", f"mgsm_ja={numbers}"]]),
    ):
        write_config(config, models=models, problems=problems, tasks=tasks, report=report, budget={"candidates": 4})
        run = tmp_path / f"run-{len(report)}"
        done = evovlm("evolve", config, "--out", run)
        assert done.code == 0, done.err
        advised = [shlex.split(line) for line in done.out.splitlines() if "evovlm score" in line]
        assert advised == [["evovlm", "score", str(run / "model"), *command] for command in commands]


def test_json_is_the_result_alone_and_its_recipe_is_the_winner(evovlm: Command, config: Path, tmp_path: Path) -> None:
    done = evovlm("evolve", config, "--out", tmp_path / "run", "--json")
    result = json.loads(done.out)
    assert result["candidates"] == 8
    assert result["failures"] == 0
    assert result["winner"] == "best"
    assert load_recipe(Path(result["recipe"]), methods=METHODS).recipe_id == result["recipe_id"]
    assert set(result["search_scores"]) == {TASK}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["recipe_id"] == result["recipe_id"]


def test_checkpoint_writes_the_winner_and_refuses_a_folder_that_exists(
    evovlm: Command, config: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    done = evovlm("evolve", config, "--out", tmp_path / "run", "--checkpoint", model, "--json")
    assert json.loads(done.out)["checkpoint"] == str(model)
    assert (model / "model.safetensors").is_file()
    again = evovlm("evolve", config, "--out", tmp_path / "other", "--checkpoint", model)
    assert again.code == 2
    assert "exists already" in again.err
    assert not (tmp_path / "other").exists()


def test_the_mean_can_be_the_winner(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "mean.yaml", models=models, problems=problems, winner="mean")
    result = json.loads(evovlm("evolve", config, "--out", tmp_path / "run", "--json").out)
    assert result["recipe"].endswith("mean.yaml")
    assert load_recipe(tmp_path / "run" / "mean.yaml", methods=METHODS).recipe_id == result["recipe_id"]


def test_one_search_scores_a_vlm_on_two_tasks(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    merge = {
        "base": str(models / "base"),
        "host": str(models / "vlm"),
        "sources": {"vlm": str(models / "vlm"), "ja": str(models / "ja")},
        "method": "ties",
        "vocabulary": "host",
    }
    tasks = [
        short_task(problems, weight=3),
        short_task(problems, f"{TASK}_en", weight=1),
    ]
    config = write_config(tmp_path / "both.yaml", models=models, problems=problems, merge=merge, tasks=tasks)
    result = json.loads(evovlm("evolve", config, "--out", tmp_path / "run", "--json").out)
    scores = result["search_scores"]
    weighted = (3 * scores[TASK]["score"] + scores[f"{TASK}_en"]["score"]) / 4
    assert result["search_fitness"] == pytest.approx(weighted)


def test_resuming_a_finished_run_prints_its_result_again(evovlm: Command, config: Path, finished: Path) -> None:
    journal = (finished / "journal.jsonl").read_bytes()
    again = evovlm("evolve", config, "--out", finished, "--resume", "--json")
    assert again.code == 0, again.err
    result = {**json.loads((finished / "result.json").read_text()), "checkpoint": None}
    assert json.loads(again.out) == result
    assert (finished / "journal.jsonl").read_bytes() == journal


def test_the_config_in_a_run_is_whole_and_can_be_run_again(evovlm: Command, finished: Path, tmp_path: Path) -> None:
    written = yaml.safe_load((finished / "config.yaml").read_text())
    assert written["winner"] == "best"
    assert written["optimizer"]["population"] == 4
    again = tmp_path / "deep" / "again"
    assert evovlm("evolve", finished / "config.yaml", "--out", again).code == 0
    assert (again / "best.yaml").read_text().split("parameters:")[1] == (
        (finished / "best.yaml").read_text().split("parameters:")[1]
    )


def test_a_dry_run_says_what_the_run_would_cost_and_writes_nothing(
    evovlm: Command, config: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    told = evovlm("evolve", config, "--out", tmp_path / "run", "--dry-run")
    assert told.code == 0, told.err
    for words in (
        "4 genes, 2 generations of 4: 8 candidates",
        "samples: 27",
        "tokens:",
        "time:",
        "memory so far: ",
        "assumed:",
    ):
        assert words in told.out
    figures = json.loads(evovlm("evolve", config, "--out", tmp_path / "run", "--dry-run", "--json").out)
    assert (figures["candidates"], figures["samples"], figures["genes"]) == (8, 27, 4)
    assert figures["seconds"]["low"] <= figures["seconds"]["high"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_racing_search_prints_what_the_best_scored_in_the_search_and_again(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    changes = {"racing": {"first": 2, "limit": 0.7}, "rescore": 2}
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, **changes)
    done = evovlm("evolve", config, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    # 2 of the 3 samples for each of 4 candidates.
    assert ", 8 samples, " in done.err.splitlines()[1]
    told = [line for line in done.out.splitlines() if "scored again in full" in line]
    assert len(told) == 3
    assert sum("candidate" in line and "in the search" in line for line in told) == 2
    assert sum("the mean" in line for line in told) == 1

    shown = evovlm("show", tmp_path / "run")
    assert shown.code == 0, shown.err
    assert sum("scored again in full" in line for line in shown.out.splitlines()) == 2
    assert "samples" in shown.out
    summary = json.loads(evovlm("show", tmp_path / "run", "--json").out)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert summary["rescored"] == result["rescored"]
    assert summary["tokens"] == result["tokens"]
