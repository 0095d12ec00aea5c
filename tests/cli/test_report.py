"""`evovlm report` and `evovlm watch` on a run of pico models."""

import json
from pathlib import Path

import pytest
from matplotlib import font_manager

from tests.cli.conftest import Command, Outcome


def _refused(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


def test_a_page_can_be_written_into_the_runs_folder_repeatedly(evovlm: Command, finished: Path) -> None:
    for _ in range(2):
        made = evovlm("report", finished, "--lang", "ja")
        assert made.code == 0, made.err
        assert made.out.strip() == str(finished / "report.html")
        assert "not yet scored on the report split: winner, math, ja, equal-weights" in made.err
    assert '<html lang="ja">' in (finished / "report.html").read_text()
    # The files that it leaves there do not disturb other commands.
    assert evovlm("show", finished).code == 0


@pytest.mark.slow
def test_scoring_has_everyone_answer_once_and_the_page_shows_it(
    evovlm: Command, finished: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = finished / "journal.jsonl"
    from evovlm.runs.folder.journal import config_hash

    lines = journal.read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    header["config"]["report"] = [{"name": "word_problems_ja", "data": str(problems)}]
    header["config_hash"] = config_hash(header["config"])
    journal.write_text("".join([json.dumps(header) + "\n", *lines[1:]]))
    made = evovlm("report", finished, "--score")
    assert made.code == 0, made.err
    assert "not yet scored" not in made.err
    folders = {file.name for file in (finished / "scores").iterdir() if file.is_dir()}
    best = json.loads((finished / "result.json").read_text())["recipe_id"]
    assert folders == {f"winner-{best}", "parent-math", "parent-ja", "equal-weights"}
    kept = {file: file.stat().st_mtime_ns for file in (finished / "scores").rglob("*.jsonl")}
    assert len(kept) == 4
    assert evovlm("report", finished, "--score").code == 0
    assert {file: file.stat().st_mtime_ns for file in (finished / "scores").rglob("*.jsonl")} == kept
    assert "report split, 3 samples" in (finished / "report.html").read_text()


def test_figures_come_beside_the_page(evovlm: Command, finished: Path, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    made = evovlm("report", finished, "--out", page, "--figures", figures)
    assert made.code == 0, made.err
    assert page.is_file()
    assert {file.suffix for file in figures.iterdir()} == {".svg", ".png"}
    assert not (finished / "report.html").exists()


@pytest.mark.slow
def test_that_words_in_a_png_are_english_for_lack_of_a_font_is_said(
    evovlm: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fonts = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
    made = evovlm("report", finished, "--lang", "ja", "--figures", tmp_path / "figures")
    assert made.code == 0, made.err
    assert "the words in the PNG files are English" in made.err
    assert "fonts-noto-cjk" in made.err
    assert "世代" in (tmp_path / "figures" / "fitness-by-generation.svg").read_text()
    made = evovlm("report", finished, "--figures", tmp_path / "english")
    assert "PNG" not in made.err


def test_two_runs_are_compared(evovlm: Command, finished: Path, finished_once: Path, tmp_path: Path) -> None:
    other = finished.rename(tmp_path / "other")
    made = evovlm("report", finished_once / "run", other, "--out", tmp_path / "both.html")
    assert made.code == 0, made.err
    assert "Comparison of 2 runs" in (tmp_path / "both.html").read_text()


def test_bad_input_is_refused_and_leaves_nothing(evovlm: Command, finished: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    _refused(evovlm("report", finished, "--out", there), "there.html exists already")
    _refused(evovlm("report", finished, "--out", tmp_path / "no" / "page.html"), "does not exist")
    _refused(evovlm("report", finished, "--figures", tmp_path), "exists already")
    _refused(evovlm("report", finished, "--lang", "jp"), "--lang jp: unknown language. Choose en or ja.")
    _refused(evovlm("report", tmp_path), "holds no journal.jsonl")
    _refused(evovlm("report", finished, finished, "--out", tmp_path / "x.html"), "named twice")
    _refused(evovlm("watch", tmp_path / "nothing"), "this folder does not exist")
    _refused(evovlm("watch", finished, "--out", there), "there.html exists already")
    header = (finished / "journal.jsonl").read_text().splitlines(keepends=True)[0]
    (finished / "journal.jsonl").write_text(header)
    _refused(evovlm("report", finished), "no candidate has been evaluated yet")
    assert there.read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} >= {"there.html"}
    assert not (finished / "report.html").exists()


def test_watching_a_finished_run_ends_with_its_page_and_one_plain_line(evovlm: Command, finished: Path) -> None:
    watched = evovlm("watch", finished)
    assert watched.code == 0, watched.err
    (line,) = watched.out.splitlines()
    assert line.startswith("8/8 candidates, generation 2, best ")
    assert line.endswith(", finished")
    assert "\x1b" not in watched.out
    assert 'http-equiv="refresh"' not in (finished / "report.html").read_text()
