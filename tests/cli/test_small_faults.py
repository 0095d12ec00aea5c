"""What new users stumbled over: names that are nearly right, runs that have not begun, answers of own tasks."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from evovlm.cli.show_run import tie_line
from evovlm.runs.run import Run
from evovlm.tasks.metrics.scoring import Scoring
from tests.cli.conftest import TASK, Command, short_task, write_config


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot resolve any name, as without a network."""

    def refused(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_a_mistyped_folder_is_not_only_a_problem_of_the_network(
    evovlm: Command, models: Path, unreachable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models.parent)
    refused = evovlm("ask", f"{models.name}/bsae", "3+4")
    assert refused.code == 2
    assert "there is no such folder" in refused.err
    assert f"Did you mean the folder {models.name}/base?" in refused.err
    refused = evovlm("score", f"./{models.name}/maths", "--task", "word_problems_ja")
    assert refused.code == 2
    assert f"Did you mean the folder {models.name}/math?" in refused.err


def test_a_missing_recipe_is_a_missing_file(evovlm: Command, unreachable: None) -> None:
    for command in (("ask", "runs/missing.yaml", "3+4"), ("score", "runs/missing.yaml", "--task", "word_problems_ja")):
        refused = evovlm(*command)
        assert refused.code == 2
        assert "runs/missing.yaml: this file does not exist" in refused.err


def test_a_data_set_without_a_network_is_refused_at_once(
    evovlm: Command, unreachable: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    refused = evovlm("score", "zoo:ja", "--task", "gsm8k", "--limit", "2")
    assert refused.code == 2
    assert "the hub, which cannot be reached" in refused.err
    assert slept == []


def test_a_folder_of_gguf_files_is_explained(evovlm: Command, tmp_path: Path) -> None:
    (tmp_path / "quantised").mkdir()
    (tmp_path / "quantised" / "model-q4.gguf").touch()
    refused = evovlm("score", tmp_path / "quantised", "--task", "word_problems_ja", "--limit", "1")
    assert refused.code == 2
    assert "GGUF files (model-q4.gguf)" in refused.err


def test_a_refused_search_leaves_no_folder(evovlm: Command, models: Path, problems: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "wrong.yaml", models=models, problems=problems, device="cuda:99")
    refused = evovlm("evolve", config, "--out", tmp_path / "run")
    assert refused.code == 2
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    assert evovlm("evolve", config, "--out", tmp_path / "run").code == 2
    # It was there before.
    assert (tmp_path / "run").is_dir()


def test_watching_before_the_search_says_how_to_start_it(evovlm: Command, tmp_path: Path) -> None:
    refused = evovlm("watch", tmp_path / "run")
    assert refused.code == 2
    assert f"evovlm evolve CONFIG --out {tmp_path / 'run'}" in refused.err


def test_ties_are_mentioned(evovlm: Command, finished: Path) -> None:
    run = Run.open(finished)
    fitnesses = [entry.evaluation.fitness for entry in run.ranked if entry.evaluation]
    assert fitnesses.count(fitnesses[0]) > 1
    said = tie_line(run)
    assert said is not None
    assert said.startswith(f"{fitnesses.count(fitnesses[0])} candidates have the highest fitness")
    assert said in evovlm("show", finished).out


def test_a_path_is_drawn_from_its_run_and_a_merge_has_none(evovlm: Command, finished: Path, tmp_path: Path) -> None:
    refused = evovlm("show", finished, "--svg", tmp_path / "path.svg")
    assert refused.code == 2
    assert "has no path to draw" in refused.err


def test_saved_answers_of_a_task_of_ones_own_are_graded_as_they_were_scored(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path
) -> None:
    task = short_task(problems)["name"]
    scored = evovlm("score", models / "ja", "--task", task, "--save", tmp_path / "saved", "--json")
    assert scored.code == 0, scored.err
    (file,) = (tmp_path / "saved").glob("*.jsonl")
    graded = evovlm("grade", file, "--json")
    assert graded.code == 0, graded.err
    (row,) = json.loads(graded.out)["files"][0]["tasks"]
    assert (row["task"], row["measured"]) == (TASK, "accuracy, robust extractor, script gate")
    assert row["score"] == json.loads(scored.out)[TASK]["score"]


@pytest.mark.parametrize(
    "scoring",
    [
        Scoring(metric="accuracy"),
        Scoring(metric="accuracy", extractor="paper", gate="script"),
        Scoring(metric="rouge_l_ja", gate="fasttext"),
        Scoring(metric="clip_score", clip_model="ViT-B-32:laion2b_s34b_b79k"),
        Scoring(metric="evaluate:my, metric.py", gate=None),
    ],
)
def test_a_scoring_is_read_from_its_text(scoring: Scoring) -> None:
    if scoring.metric.startswith("evaluate"):
        with pytest.raises(ValueError, match="is not a scoring"):
            Scoring.parse(f"{scoring} ")
    else:
        assert Scoring.parse(str(scoring)) == scoring


@pytest.mark.slow
def test_a_task_of_the_report_may_have_a_limit_and_its_scoring_is_shown_with_names_and_counts(
    evovlm: Command, models: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = [{"name": short_task(problems)["name"], "limit": 2}]
    config = write_config(tmp_path / "search.yaml", models=models, problems=problems, report=report)
    done = evovlm("evolve", config, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "--limit 2" in done.out
    monkeypatch.setattr("evovlm.cli.progress.SILENT_S", 0.0)
    monkeypatch.setattr("evovlm.cli.progress._LINE_EVERY_S", 0.0)
    scored = evovlm("report", tmp_path / "run", "--score")
    assert scored.code == 0
    assert f"winner, 1 of 4, {TASK}: 2/2 questions" in scored.err
    assert f"equal-weights, 4 of 4, {TASK}: 2/2 questions" in scored.err
    saved = next((tmp_path / "run" / "scores").glob("winner-*/*.jsonl"))
    assert len(saved.read_text(encoding="utf-8").splitlines()) == 2
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["report"][0]["limit"] == 2


def test_a_folder_or_a_recipe_in_place_of_a_config_is_explained(
    evovlm: Command, models: Path, finished: Path, tmp_path: Path
) -> None:
    refused = evovlm("check", finished)
    assert refused.code == 2
    assert f"{finished}: is a folder. Name a YAML file: it holds best.yaml, config.yaml, mean.yaml" in refused.err
    assert "holds none" in evovlm("evolve", models / "base", "--out", tmp_path / "new").err
    refused = evovlm("evolve", finished / "best.yaml", "--out", tmp_path / "new")
    assert refused.code == 2
    assert "is a recipe of one merge" in refused.err
    assert "evovlm merge" in refused.err


def test_a_run_that_does_not_exist_is_not_an_empty_one(evovlm: Command, tmp_path: Path) -> None:
    for command in ("show", "report"):
        refused = evovlm(command, tmp_path / "nothing")
        assert refused.code == 2
        assert f"{tmp_path / 'nothing'} does not exist" in refused.err
