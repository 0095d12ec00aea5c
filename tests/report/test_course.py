"""The course of a search, read from its journal."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.recipes.candidate import Evaluation
from evovlm.report.course import _front, read_course
from evovlm.runs.journal import Journal, read_journal
from tests.report.made_runs import config_of, evaluation, make_run


def _journal(run: Path) -> Journal:
    return read_journal(run / "journal.jsonl")


def test_best_mean_and_spread_are_those_of_each_generation_without_its_failures(bare_run: Path) -> None:
    journal = _journal(bare_run)
    course = read_course(journal, config_of())
    assert [point.n for point in course.points] == [4, 3, 4]
    assert [point.failed for point in course.points] == [0, 1, 0]
    best = 0.0
    for point in course.points:
        outcomes = [each.outcome for each in journal.candidates if each.generation == point.generation]
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
    course = read_course(_journal(bare_run), config_of())
    assert course.replayed
    assert all(point.sigma is not None and 0 < point.sigma < 1 for point in course.points)
    assert all(point.condition is not None and point.condition >= 1 for point in course.points)
    assert len({point.sigma for point in course.points}) == 3


def test_a_journal_of_another_search_is_shown_without_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert not read_course(_journal(run), config_of(seed=4)).replayed
    assert not read_course(_journal(run), config_of(optimizer={"kind": "random", "population": 4})).replayed


def test_candidates_scored_on_fewer_samples_are_savings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert read_course(_journal(run), config_of()).savings is None
    lines = (run / "journal.jsonl").read_text().splitlines()
    for place in (2, 3):
        row = json.loads(lines[place])
        score = row["scores"]["word_problems_ja"]
        score |= {"n": 4, "per_sample": score["per_sample"][:4]}
        lines[place] = json.dumps(row)
    (run / "journal.jsonl").write_text("\n".join(lines) + "\n")
    savings = read_course(_journal(run), config_of()).savings
    assert savings is not None
    assert (savings.used, savings.whole) == (10 * 10 + 2 * 4, 12 * 10)


def test_a_search_on_two_tasks_has_goals_against_each_other(tmp_path: Path) -> None:
    tasks = [{"name": "word_problems_ja"}, {"name": "word_problems_en"}]
    run = make_run(tmp_path / "run", tasks=tasks)
    course = read_course(_journal(run), config_of(tasks=tasks))
    assert course.goals is not None
    assert course.goals.names == ("word_problems_ja", "word_problems_en")
    best = max(range(12), key=lambda place: course.goals.values[place] if course.goals else ())
    assert course.goals.front == {best}
    assert evaluation(0.5).fitness == 0.5


_VALUES = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 2), min_size=1, max_size=12)


@given(values=_VALUES)
def test_nobody_on_the_front_is_dominated_and_everybody_else_is(values: list[tuple[float, float]]) -> None:
    def dominated(mine: tuple[float, float]) -> bool:
        return any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in values)

    assert _front(values) == {place for place, mine in enumerate(values) if not dominated(mine)}
