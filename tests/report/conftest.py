"""Runs that several tests read; none is changed."""

from pathlib import Path

import pytest

from evovlm.report.content import RunContent
from evovlm.report.drawing import Drawing, inline_svg, page_pen, style
from evovlm.report.page import run_drawings, run_page
from evovlm.report.reading import read_run
from evovlm.texts.languages import LANGUAGES, speaker
from tests.report.made_runs import everyones_answers, keep, make_run


@pytest.fixture(scope="session")
def bare_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without answers to the report split; candidate 5 has failed."""
    return make_run(tmp_path_factory.mktemp("bare") / "run", failed={5})


@pytest.fixture(scope="session")
def scored_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everyone's answers."""
    run = make_run(tmp_path_factory.mktemp("scored") / "run")
    keep(run, everyones_answers())
    return run


@pytest.fixture(scope="session")
def content(scored_run: Path) -> RunContent:
    """What the page shows of the run with everyone's answers."""
    return read_run(scored_run)


@pytest.fixture(scope="session")
def pages(content: RunContent) -> dict[str, str]:
    """The page of that run in every language."""
    return {language: run_page(content, language=language) for language in LANGUAGES}


@pytest.fixture(scope="session")
def inline_figures(content: RunContent) -> list[tuple[Drawing, str]]:
    """Every figure of that run, as the page has it in Japanese."""
    pen = page_pen(speaker("ja"))
    with style(pen):
        return [(drawing, inline_svg(drawing, prefix=name)) for name, drawing in run_drawings(content, pen)]
