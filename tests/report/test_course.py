"""The course of a search, read from its journal."""

import json
from pathlib import Path

import numpy as np
import pytest

from evovlm.recipes.candidate import Evaluation
from evovlm.report.course import read_course
from evovlm.report.reading import read_run
from evovlm.report.search_content import Savings
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.run import Run
from tests.report.made_runs import LUCK, OTHER_TASK, TASK, config_of, make_run, make_trading_run, trading


def _with(run: Path, config: SearchConfig) -> Run:
    """Return the run as if it had been started with another config."""
    return Run(folder=run, config=config, journal=Run.open(run).journal)


def test_best_mean_and_spread_are_those_of_each_generation_without_its_failures(bare_run: Path) -> None:
    run = Run.open(bare_run)
    course = read_course(run)
    assert [point.n for point in course.points] == [4, 3, 4]
    assert [point.failed for point in course.points] == [0, 1, 0]
    best = 0.0
    for point in course.points:
        outcomes = [each.outcome for each in run.journal.candidates if each.generation == point.generation]
        fitnesses = [each.fitness for each in outcomes if isinstance(each, Evaluation)]
        best = max([best, *fitnesses])
        assert point.best == max(fitnesses)
        assert point.best_so_far == best
        assert point.mean == pytest.approx(np.mean(fitnesses))
        assert min(fitnesses) <= point.low <= point.high <= max(fitnesses)
    assert [point.tokens for point in course.points] == [400, 700, 1100]
    assert course.candidates[5].failure is not None
    assert course.candidates[5].fitness is None
    assert course.mean_fitness is not None


def test_sigma_and_condition_come_from_replaying_the_search(bare_run: Path) -> None:
    course = read_course(Run.open(bare_run))
    assert course.replayed
    assert all(point.sigma is not None and 0 < point.sigma < 1 for point in course.points)
    assert all(point.condition is not None and point.condition >= 1 for point in course.points)
    assert len({point.sigma for point in course.points}) == 3


def test_a_journal_of_another_search_is_shown_without_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert not read_course(_with(run, config_of(seed=4))).replayed
    assert not read_course(_with(run, config_of(optimizer={"kind": "random", "population": 4}))).replayed


def test_a_races_savings_are_of_all_samples_for_every_candidate(tmp_path: Path) -> None:
    changes = {"racing": {}, "rescore": 2}
    run = make_run(tmp_path / "run", **changes)
    lines = (run / "journal.jsonl").read_text().splitlines()
    for place, line in enumerate(lines):
        row = json.loads(line)
        if row["kind"] in ("part", "candidate"):
            score = row["scores"]["word_problems_ja"]
            score |= {"n": 4, "per_sample": score["per_sample"][:4], "rows": [0, 1, 2, 3]}
            lines[place] = json.dumps(row)
    (run / "journal.jsonl").write_text("\n".join(lines) + "\n")
    # The mean and those scored again have all ten.
    assert read_course(Run.open(run)).savings == Savings(used=12 * 4, whole=12 * 10)
    in_batches = config_of(**{**changes, "batch": 6})
    assert read_course(_with(run, in_batches)).savings == Savings(used=12 * 4, whole=12 * 6)
    assert read_course(_with(run, config_of())).savings is None


def test_the_best_that_were_scored_again_come_with_the_estimates_of_the_search(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", racing={}, rescore=2)
    course = read_course(Run.open(run))
    best = sorted(course.candidates, key=lambda row: -(row.fitness or 0))[:2]
    again = [each for each in course.rescored if each.candidate is not None]
    assert {each.candidate: each.search_fitness for each in again} == {row.index: row.fitness for row in best}
    assert all(each.fitness == pytest.approx((each.search_fitness or 0) + LUCK) for each in again)
    assert [each.candidate for each in course.rescored].count(None) == 1
    assert [each.fitness for each in course.rescored] == sorted(
        (each.fitness for each in course.rescored), reverse=True
    )


def test_what_a_candidate_scored_on_a_part_is_counted_once(tmp_path: Path) -> None:
    raced = read_run(make_run(tmp_path / "raced", failed={2}, racing={}, rescore=0, winner="mean"))
    plain = read_run(make_run(tmp_path / "plain", failed={2}))
    assert raced.last.cost.seconds == plain.last.cost.seconds
    assert (raced.last.cost.tokens, raced.failed) == (plain.last.cost.tokens, plain.failed) == (1200, 1)


def test_it_says_which_budget_ended_it(tmp_path: Path) -> None:
    course = read_course(Run.open(make_run(tmp_path / "run")))
    assert (course.stopped_by, course.bound) == ("candidates", 12)
    going_on = read_course(Run.open(make_run(tmp_path / "on", finished=False)))
    assert (going_on.stopped_by, going_on.bound) == (None, None)


def test_constraints_are_shown_with_who_breaks_them_and_the_parents_scores(tmp_path: Path) -> None:
    run = make_trading_run(tmp_path / "run")
    course = read_course(Run.open(run))
    assert [(each.task, each.source) for each in course.constraints] == [(TASK, None), (OTHER_TASK, "math")]
    broken = [row for row in course.candidates if row.scores[TASK] < 0.7 or row.scores[OTHER_TASK] < 0.7]
    assert course.infeasible == len(broken) > 0
    assert [row for row in course.candidates if row.breaks] == broken
    assert all((row.fitness or 0) < 0 for row in broken)
    (alone,) = course.parents
    assert (alone.source, alone.scores, alone.samples) == ("math", {OTHER_TASK: 0.75}, 10)


def test_goals_that_are_traded_have_the_runs_own_front(tmp_path: Path) -> None:
    run = make_trading_run(tmp_path / "run")
    goals = read_course(Run.open(run)).goals
    assert goals is not None
    assert goals.names == (TASK, OTHER_TASK)
    front = Run.open(run).front()
    assert [row.index for row in goals.front] == [point.entry.index for point in front]
    assert len(goals.front) > 1
    assert goals.front[goals.knee].index == Run.open(run).pick("knee").index
    assert len(goals.front) + len(goals.others) == 32


def test_generations_on_other_samples_have_no_front(tmp_path: Path) -> None:
    changes = {"tasks": trading()["tasks"], "batch": 5, "winner": "mean"}
    assert read_course(Run.open(make_run(tmp_path / "run", **changes))).goals is None
