"""Several runs side by side."""

from pathlib import Path

import pytest

from evovlm.errors import ConfigError
from evovlm.evaluation.comparison import compare_by_id
from evovlm.evaluation.intervals import mean_interval
from evovlm.report.comparing import read_runs
from evovlm.report.page import runs_page
from tests.report.made_runs import answer, everyones_answers, keep, make_run, scored
from tests.report.test_page import _tags


def test_runs_of_other_seeds_are_one_line_with_an_interval(tmp_path: Path) -> None:
    seeds = [make_run(tmp_path / f"seed{seed}", seed=seed) for seed in (1, 2, 3)]
    other = make_run(tmp_path / "other", optimizer={"kind": "random", "population": 4})
    found = read_runs([*seeds, other])
    assert [band.runs for band in found.bands] == [("seed1", "seed2", "seed3"), ("other",)]
    band, alone = found.bands
    last = [run.last.course.points[-1].best_so_far for run in found.runs[:3]]
    assert band.mean[-1] == pytest.approx(sum(last) / 3)
    assert (band.low[-1], band.high[-1]) == mean_interval(last)
    assert band.tokens == (400, 800, 1200)
    assert alone.mean == alone.low == alone.high
    assert found.pairs == ()
    html = runs_page(found, language="ja")
    _tags(html)
    assert "seed1, seed2, seed3" in html


def test_winners_are_compared_pair_by_pair_on_the_report_split(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", seed=9)
    ours = everyones_answers()["winner"]
    theirs = scored([answer(number, "x", score=float(number < 2)) for number in range(6)])
    keep(first, {"winner": ours})
    keep(second, {"winner": theirs})
    found = read_runs([first, second])
    (pair,) = found.pairs
    assert (pair.first, pair.second) == ("a/run", "b/run")
    scores = [{each.sample.id: each.score for each in task.answers} for task in (ours, theirs)]
    assert pair.comparison == compare_by_id(*scores)
    html = runs_page(found, language="en")
    _tags(html)
    assert "McNemar, exact" in html


def test_runs_on_other_samples_give_a_warning_and_a_run_named_twice_is_refused(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", tasks=[{"name": "word_problems_ja", "limit": 4}])
    found = read_runs([first, second])
    assert not found.same_tasks
    assert "cannot be compared" in runs_page(found, language="en")
    with pytest.raises(ConfigError, match="named twice"):
        read_runs([first, tmp_path / "b" / ".." / "a"])
