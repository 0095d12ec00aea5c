"""Runs as Optuna studies, opened by Optuna itself."""

import json
import logging.handlers
import resource
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

from evovlm.cli.app import app
from evovlm.errors import ConfigError, OutputError, OutputExists, RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure, Outcome, TaskScore
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.optuna_export import Study, export_to_optuna
from evovlm.runs.searching.evolve import evolve
from tests.runs.conftest import TASK


def study_in(file: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{file}")


def written_run(folder: Path, config: EvolveConfig, outcomes: list[Outcome]) -> Path:
    """Write a run's journal with these outcomes, at genomes of 0, 0.1, 0.2, ..."""
    folder.mkdir()
    recorded = config.resolved(relative_to=None).as_mapping()
    journal = Journal.create(folder / "journal.jsonl", config=recorded, blocks=dict.fromkeys(config.merge.sources, 3))
    for index, outcome in enumerate(outcomes):
        journal.append(
            Entry(
                kind="candidate",
                index=index,
                generation=index // 4,
                genome=np.full(4, index / 10),
                recipe_id=f"recipe-{index}",
                outcome=outcome,
            )
        )
    return folder


def evaluation(fitness: float, *, goals: tuple[float, ...] = (), n: int = 4, seconds: float = 2.0) -> Evaluation:
    score = TaskScore(score=fitness, ungated=fitness, japanese=1.0, per_sample=(fitness,) * n, n=n)
    return Evaluation(scores={TASK: score}, fitness=fitness, seconds={"merge": seconds}, tokens=7, goals=goals)


def test_every_candidate_of_a_run_is_a_trial_that_optuna_opens(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    evolve(config, out=tmp_path / "run", evaluator=evaluator)
    out = tmp_path / "study.db"
    assert export_to_optuna(tmp_path / "run", out=out) == (Study(name="run", trials=12, failed=0),)
    study = study_in(out, "run")
    entries = read_journal(tmp_path / "run/journal.jsonl").candidates
    space = config.space_for({"math": 2, "ja": 2})
    assert [trial.number for trial in study.trials] == list(range(12))
    begin = study.trials[0].datetime_start
    for trial, entry in zip(study.trials, entries, strict=True):
        assert isinstance(entry.outcome, Evaluation)
        decoded = space.decode(entry.genome).parameters
        assert trial.params == {
            f"{source}.{parameter}": getattr(decoded[source], parameter)
            for source in ("ja", "math")
            for parameter in ("weight", "density")
        }
        score = entry.outcome.scores[TASK]
        assert trial.values == [entry.outcome.fitness]
        assert trial.user_attrs == {
            "recipe_id": entry.recipe_id,
            "generation": entry.generation,
            "fitness": entry.outcome.fitness,
            "tokens": entry.outcome.tokens,
            f"score.{TASK}": score.score,
            f"samples.{TASK}": 4,
        }
        assert trial.datetime_start == begin
        begin = trial.datetime_complete
    assert study.best_trial.user_attrs["recipe_id"] == max(study.trials, key=lambda t: (t.value, -t.number)).user_attrs[
        "recipe_id"
    ]  # fmt: skip
    assert study.user_attrs["config"] == json.loads(json.dumps(config.resolved(relative_to=None).as_mapping()))
    assert [path.name for path in tmp_path.iterdir() if "study" in path.name] == ["study.db"]


def test_optuna_draws_the_history_and_the_importances(config: EvolveConfig, tmp_path: Path) -> None:
    outcomes: list[Outcome] = [evaluation(index / 20 + 0.1 * (index % 3)) for index in range(10)]
    export_to_optuna(written_run(tmp_path / "run", config, outcomes), out=tmp_path / "study.db")
    study = study_in(tmp_path / "study.db", "run")
    history = optuna.visualization.plot_optimization_history(study)
    assert list(history.data[0].y) == [outcome.fitness for outcome in outcomes if isinstance(outcome, Evaluation)]
    importances = optuna.visualization.plot_param_importances(study)
    assert set(importances.data[0].y) == {"ja.weight", "ja.density", "math.weight", "math.density"}


def test_a_failure_is_a_failed_trial_with_its_reason_and_a_race_says_its_samples(
    config: EvolveConfig, tmp_path: Path
) -> None:
    broken = Failure(kind="not_finite", reason="the merged weights are not finite")
    run = written_run(tmp_path / "run", config, [evaluation(0.5), broken, evaluation(0.25, n=2)])
    assert export_to_optuna(run, out=tmp_path / "study.db") == (Study(name="run", trials=3, failed=1),)
    first, failed, raced = study_in(tmp_path / "study.db", "run").trials
    assert (first.state, failed.state, raced.state) == (TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE)
    assert failed.values is None
    assert failed.user_attrs["failure"] == "not_finite"
    assert failed.user_attrs["reason"] == "the merged weights are not finite"
    assert raced.user_attrs[f"samples.{TASK}"] == 2
    assert raced.datetime_complete - raced.datetime_start == timedelta(seconds=2)
    assert failed.datetime_start == failed.datetime_complete == raced.datetime_start


def test_several_goals_are_several_values_with_a_front(config: EvolveConfig, tmp_path: Path) -> None:
    goals = [(0.9, 0.1), (0.5, 0.5), (0.4, 0.4), (0.1, 0.9)]
    run = written_run(tmp_path / "run", config, [evaluation(sum(each) / 2, goals=each) for each in goals])
    export_to_optuna(run, out=tmp_path / "study.db")
    study = study_in(tmp_path / "study.db", "run")
    assert [trial.values for trial in study.trials] == [list(each) for each in goals]
    assert sorted(trial.number for trial in study.best_trials) == [0, 1, 3]
    assert study.trials[0].user_attrs["fitness"] == 0.5
    assert len(optuna.visualization.plot_pareto_front(study).data) > 0


def test_the_same_run_gives_the_same_study(config: EvolveConfig, tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", config, [evaluation(0.5), evaluation(0.25)])
    for name in ("a.db", "b.db"):
        export_to_optuna(run, out=tmp_path / name)
    first, second = (study_in(tmp_path / name, "run").trials for name in ("a.db", "b.db"))
    assert first == second


def test_a_file_is_never_overwritten(config: EvolveConfig, tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", config, [evaluation(0.5)])
    out = tmp_path / "study.db"
    out.write_text("mine")
    with pytest.raises(OutputExists, match="not overwritten"):
        export_to_optuna(run, out=out)
    assert out.read_text() == "mine"
    with pytest.raises(OutputError, match=r"absent/study\.db: cannot be written"):
        export_to_optuna(run, out=tmp_path / "absent/study.db")
    torn = written_run(tmp_path / "torn", config, [evaluation(0.5), evaluation(0.25)])
    # A genome of another length than the first, as no search writes it.
    lines = (torn / "journal.jsonl").read_text().splitlines()
    lines[2] = lines[2].replace("[0.1, 0.1, 0.1, 0.1]", "[0.1]")
    (torn / "journal.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunMismatch, match="its genome has 1 numbers, and the first one has 4"):
        export_to_optuna(torn, out=tmp_path / "torn.db")
    assert not list(tmp_path.glob("torn.db*"))


@pytest.mark.parametrize("size_bytes", [4096, 40_000, 100_000])
def test_a_disk_that_fills_up_leaves_no_half_file(config: EvolveConfig, tmp_path: Path, size_bytes: int) -> None:
    run = written_run(tmp_path / "run", config, [evaluation(0.5)] * 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        with pytest.raises(OutputError, match=r"study\.db: cannot be written"):
            export_to_optuna(run, out=tmp_path / "study.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "search.yaml"]
    export_to_optuna(run, out=tmp_path / "study.db")
    assert len(study_in(tmp_path / "study.db", "run").trials) == 10


def test_what_is_missing_is_said(config: EvolveConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunMismatch, match=r"holds no journal\.jsonl"):
        export_to_optuna(tmp_path, out=tmp_path / "study.db")
    run = written_run(tmp_path / "run", config, [])
    with pytest.raises(RunMismatch, match="no candidate"):
        export_to_optuna(run, out=tmp_path / "study.db")
    monkeypatch.setitem(sys.modules, "optuna.storages", None)
    with pytest.raises(ConfigError, match=r'pip install "evovlm\[optuna\]"'):
        export_to_optuna(run, out=tmp_path / "study.db")


def test_the_command_writes_a_study_and_needs_a_file(config: EvolveConfig, tmp_path: Path) -> None:
    run = written_run(tmp_path / "run", config, [evaluation(0.5), Failure(kind="k", reason="r")])
    runner = CliRunner()
    missing = runner.invoke(app, ["export", str(run), "--format", "optuna"])
    assert isinstance(missing.exception, ConfigError)
    assert "--out" in str(missing.exception)
    out = tmp_path / "study & 50%.db"
    told = runner.invoke(app, ["export", str(run), "--format", "optuna", "--out", str(out)])
    assert told.exit_code == 0
    assert "study run, 2 trials (1 failed)" in told.stdout
    other = tmp_path / "other.db"
    as_json = runner.invoke(app, ["export", str(run), "--format", "optuna", "--out", str(other), "--json"])
    assert json.loads(as_json.stdout) == {
        "format": "optuna",
        "file": str(other),
        "studies": [{"name": "run", "trials": 2, "failed": 1}],
    }
    assert out.stat().st_size > 0


def test_optuna_itself_says_nothing_and_is_left_as_talkative_as_it_was(config: EvolveConfig, tmp_path: Path) -> None:
    run, said = written_run(tmp_path / "run", config, [evaluation(0.5)]), logging.handlers.BufferingHandler(100)
    verbosity = optuna.logging.get_verbosity()
    logging.getLogger("optuna").addHandler(said)
    try:
        export_to_optuna(run, out=tmp_path / "study.db")
        assert said.buffer == []
        assert optuna.logging.get_verbosity() == verbosity == logging.INFO
    finally:
        logging.getLogger("optuna").removeHandler(said)
