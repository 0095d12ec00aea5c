"""A run's folder read for the page."""

from pathlib import Path

import pytest

from evovlm.errors import RunMismatch
from evovlm.report.content import RunContent
from evovlm.report.reading import read_run
from tests.report.made_runs import make_run


def test_it_holds_what_the_run_was_made_of(content: RunContent) -> None:
    assert [(each.part, each.text, each.licence) for each in content.models] == [
        ("base", "zoo:base", "apache-2.0"),
        ("sources.math", "zoo:math-a", "apache-2.0"),
        ("sources.ja", "zoo:ja", "apache-2.0"),
    ]
    assert content.licence == "apache-2.0"
    assert content.tasks == ("word_problems_ja",)
    assert content.finished
    assert content.unscored == ()
    (stage,) = content.stages
    assert (stage.winner, stage.generations, stage.budget) == ("best", 3, 12)
    assert stage.cost.seconds == pytest.approx({"merge": 6.5, "generate": 26.0, "score": 1.3})
    assert stage.cost.tokens_per_s == pytest.approx(50.0)
    assert stage.cost.merged_gb_per_s is not None


def test_reading_changes_nothing(scored_run: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in scored_run.rglob("*")}
    read_run(scored_run)
    assert {file: file.stat().st_mtime_ns for file in scored_run.rglob("*")} == before


def test_what_a_search_saw_of_its_report_samples_is_a_warning(tmp_path: Path) -> None:
    same = Path(__file__).parents[2] / "assets" / "zoo" / "tasks" / "word_problems_ja.report.jsonl"
    run = make_run(tmp_path / "run", tasks=[{"name": "word_problems_ja", "data": str(same), "limit": 5}])
    assert any("word_problems_ja" in warning for warning in read_run(run).warnings)


def test_an_unfinished_run_is_read_up_to_its_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    journal = run / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-200])
    content = read_run(run)
    assert not content.finished
    assert len(content.last.course.candidates) == 11
    assert content.last.winner == "best"


@pytest.mark.parametrize("kept", [0, 1])
def test_a_folder_without_a_candidate_is_refused(tmp_path: Path, kept: int) -> None:
    run = make_run(tmp_path / "run", finished=False)
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    if kept:
        (run / "journal.jsonl").write_text("".join(lines[:kept]))
    else:
        (run / "journal.jsonl").unlink()
    with pytest.raises(RunMismatch, match="no candidate has been evaluated yet" if kept else "holds no journal"):
        read_run(run)
