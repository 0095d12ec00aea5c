"""A run's folder, read as one value: plain or a hybrid, at its beginning, on its way and finished."""

import shutil
from pathlib import Path

import pytest

from evovlm.errors import ConfigError, RunError, RunMismatch
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Failure
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.recipe_space import ALL_UNITS
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal
from evovlm.runs.run import Run, journal_files
from evovlm.runs.searching.evolve import RunResult, evolve
from tests.report.made_runs import OTHER_TASK, TASK, make_hybrid_run, make_run, make_trading_run
from tests.runs.conftest import WriteConfig


def test_a_finished_run_has_the_winner_that_the_search_returned(whole_run: RunResult) -> None:
    run = Run.open(whole_run.folder)
    assert (run.finished, run.winner_kind, run.stage_name, run.stopped_by) == (True, "best", None, "candidates")
    assert (len(run.candidates), [len(entries) for entries in run.generations]) == (12, [4, 4, 4])
    assert run.winner is not None
    assert (run.winner.recipe_id, run.fitness) == (whole_run.recipe.recipe_id, whole_run.fitness)
    assert run.winner_file == whole_run.recipe_file
    assert run.ranked[0].recipe_id == whole_run.recipe.recipe_id
    fitnesses = [entry.evaluation.fitness for entry in run.ranked if entry.evaluation]
    assert fitnesses == sorted(fitnesses, reverse=True)
    assert run.searches == {"": run}
    with pytest.raises(RunMismatch, match="has no stage ps"):
        run.stage("ps")


def test_the_numbers_are_those_of_the_winner_s_recipe(whole_run: RunResult) -> None:
    found = Run.open(whole_run.folder).description
    recipe = load_recipe(whole_run.folder / "best.yaml")
    assert found.units == (ALL_UNITS,)
    assert {(each.source, each.parameter): each.values for each in found.numbers} == {
        (source, parameter): (getattr(recipe.parameters[source], parameter),)
        for source in ("ja", "math")
        for parameter in ("weight", "density")
    }


def test_the_numbers_are_those_of_the_mean_where_the_mean_is_the_winner(
    config: EvolveConfig, evaluator: Evaluator, tmp_path: Path
) -> None:
    evolve(config.model_copy(update={"winner": "mean"}), out=tmp_path / "run", evaluator=evaluator)
    run = Run.open(tmp_path / "run")
    weights = {each.source: each.values[0] for each in run.description.numbers if each.parameter == "weight"}
    recipe = load_recipe(tmp_path / "run/mean.yaml")
    assert run.winner_kind == "mean"
    assert run.fitness == run.mean_fitness is not None
    assert weights == {name: recipe.parameters[name].weight for name in ("ja", "math")}


def test_a_layer_wise_run_without_density_has_a_number_per_unit(
    write_config: WriteConfig, models: Path, tmp_path: Path
) -> None:
    merge = {"host": str(models / "ja"), "sources": {"math": str(models / "math"), "ja": str(models / "ja")}}
    config = load_config(
        write_config({"merge": {**merge, "method": "linear"}, "space": {"kind": "layer"}, "budget": {"candidates": 4}})
    )
    evolve(config, out=tmp_path / "run")
    found = Run.open(tmp_path / "run").description
    assert found.units == ("embedding", "block0", "block1", "head")
    assert [(each.source, each.parameter, len(each.values)) for each in found.numbers] == [
        ("ja", "weight", 4),
        ("math", "weight", 4),
    ]


def test_a_run_without_candidates_is_open_and_says_that_it_has_none(config: EvolveConfig, tmp_path: Path) -> None:
    Journal.create(tmp_path / "journal.jsonl", config=config.as_mapping(), blocks={"math": 2, "ja": 2})
    run = Run.open(tmp_path)
    assert (run.finished, run.candidates, run.winner, run.fitness, run.objective) == (False, (), None, None, None)
    assert (run.front(), run.rescored, run.generations, run.description.numbers) == ((), (), (), ())
    with pytest.raises(RunMismatch, match="no candidate has been evaluated yet"):
        run.check_begun()
    with pytest.raises(RunError, match="no candidate has been evaluated yet"):
        run.pick("best")


def test_a_run_in_which_all_failed_has_reasons_and_no_winner(config: EvolveConfig, tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.jsonl", config=config.as_mapping(), blocks={"math": 2, "ja": 2})
    genome = config.space_for(journal.blocks).initial
    failure = Failure(kind="not_finite", reason="the logits are not finite")
    journal.append(Entry(kind="candidate", index=0, generation=0, genome=genome, recipe_id="0" * 12, outcome=failure))
    with journal.path.open("ab") as file:
        file.write(b'{"kind": "candidate", "ind')
    run = Run.open(tmp_path)
    run.check_begun()
    assert (run.finished, run.ranked, run.winner, run.best_entry, run.description.numbers) == (
        False,
        (),
        None,
        None,
        (),
    )
    assert run.failures == ((0, "the logits are not finite"),)
    assert run.candidates[0].failure == "the logits are not finite"
    assert run.pick("0").index == 0


def test_an_unfinished_run_has_the_winner_so_far(tmp_path: Path) -> None:
    run = Run.open(make_run(tmp_path / "run", finished=False, winner="mean"))
    assert (run.finished, run.stopped_by, run.mean_fitness) == (False, None, None)
    assert (run.winner_kind, run.winner_entry) == ("best", run.ranked[0])
    # At the end, the mean is written there.
    assert run.winner_file == tmp_path / "run" / "mean.yaml"


def test_the_best_are_ranked_by_what_they_scored_again(tmp_path: Path) -> None:
    run = Run.open(make_run(tmp_path / "run", racing={}, rescore=2))
    assert run.winner_entry is not None
    assert run.winner_entry.kind in ("rescored", "mean")
    assert run.fitness == run.rescored[0].fitness == max(each.fitness for each in run.rescored)


def test_a_hybrid_is_read_at_the_last_stage_that_has_candidates(tmp_path: Path) -> None:
    whole = make_hybrid_run(tmp_path / "run")
    run = Run.open(whole)
    assert (run.folder, run.stage_name, list(run.stages), run.finished) == (whole, "path", ["ps", "path"], True)
    assert run.description.path is not None
    assert run.stage("path").winner == run.winner
    assert run.stage("ps").description.path is None
    assert Run.open(whole / "ps").winner == run.stage("ps").winner
    # The second stage has begun, and has no candidate yet.
    journal = journal_files(whole)["path"]
    journal.write_bytes(journal.read_bytes().partition(b"\n")[0] + b"\n")
    early = Run.open(whole)
    assert (early.stage_name, list(early.stages), early.finished) == ("ps", ["ps"], False)
    assert early.winner == run.stage("ps").winner
    shutil.rmtree(whole / "path")
    assert (Run.open(whole).stage_name, Run.open(whole).finished) == ("ps", False)


def test_the_front_and_the_picks_are_those_of_the_goals(tmp_path: Path) -> None:
    run = Run.open(make_trading_run(tmp_path / "run"))
    points = run.front()
    assert run.goals == (TASK, OTHER_TASK)
    assert len(points) > 1
    firsts = [point.goals[TASK] for point in points]
    assert firsts == sorted(firsts, reverse=True)
    assert not any(run.violated(point.entry) for point in points)
    assert run.pick("knee").index in {point.entry.index for point in points}
    assert run.pick(f"task={TASK}").index == points[0].entry.index
    with pytest.raises(ConfigError, match=r"does not score this task"):
        run.pick("task=other")


def test_reading_does_not_change_the_folder(whole_run: RunResult) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole_run.folder.rglob("*")}
    run = Run.open(whole_run.folder)
    assert run.candidates
    assert run.warnings == run.warnings
    assert {file: file.stat().st_mtime_ns for file in whole_run.folder.rglob("*")} == before


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunMismatch, match=r"holds no journal\.jsonl"):
        Run.open(tmp_path)
