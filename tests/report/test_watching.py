"""Watching a run that is not finished."""

from pathlib import Path

import pytest

from evovlm.errors import RunError, RunMismatch
from evovlm.report.watching import watch_run
from evovlm.runs.folder.layout import is_locked, locked
from tests.report.made_runs import make_run

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_page_follows_the_run_and_the_last_one_no_longer_reloads(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "whole")
    lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    run, page = tmp_path / "run", tmp_path / "page.html"
    run.mkdir()
    journal = run / "journal.jsonl"
    # Nothing, a header, a torn line, some candidates, nothing new, all.
    states = ["".join(lines[:1]), lines[0] + lines[1][:40], "".join(lines[:6]), "".join(lines[:6]), "".join(lines)]
    waited: list[float] = []

    def go_on(seconds: float) -> None:
        journal.write_text(states[len(waited)])
        waited.append(seconds)

    seen = []
    with locked(run):
        for content in watch_run(run, page=page, language="en", every_s=7, sleep=go_on):
            seen.append(len(content.last.course.candidates) if content else 0)
            if content is None:
                assert not page.exists()
            else:
                assert ('http-equiv="refresh" content="7"' in page.read_text()) == (not content.finished)
    assert seen == [0, 0, 0, 5, 12]
    assert waited == [7] * 5
    assert 'http-equiv="refresh"' not in page.read_text()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunMismatch, match="this folder does not exist"):
        next(watch_run(tmp_path / "run", page=tmp_path / "page.html", language="en", every_s=1))


def test_a_folder_without_a_run_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(RunMismatch, match=r"holds no journal\.jsonl, and no search works in it"):
        list(watch_run(tmp_path, page=tmp_path / "page.html", language="en", every_s=1, sleep=pytest.fail))


@pytest.mark.parametrize("n_candidates", [0, 5])
def test_a_run_that_stopped_is_reported_with_its_last_page(tmp_path: Path, n_candidates: int) -> None:
    run, page = make_run(tmp_path / "run"), tmp_path / "page.html"
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(lines[: n_candidates + 1]))
    working = locked(run)
    working.__enter__()
    contents = watch_run(run, page=page, language="en", every_s=1, sleep=lambda _: working.__exit__(None, None, None))
    assert [next(contents) is None for _ in range(2)] == [n_candidates == 0] * 2
    with pytest.raises(RunError, match=rf"stopped after {n_candidates} candidates[\s\S]* --resume"):
        next(contents)
    assert page.exists() == (n_candidates > 0)
    assert not page.exists() or 'http-equiv="refresh"' not in page.read_text()


def test_a_search_starts_while_it_is_watched(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with locked(tmp_path), pytest.raises(RunError, match="another process"), locked(tmp_path):
        pass
