"""The report as files."""

from pathlib import Path

import pytest
from PIL import Image

from evovlm.errors import OutputError, OutputExists
from evovlm.files import write_file
from evovlm.report.comparing import read_runs
from evovlm.report.content import RunContent
from evovlm.report.files import check_new, write_figures


@pytest.mark.parametrize("language", ["en", pytest.param("ja", marks=pytest.mark.slow)])
def test_every_figure_is_there_as_svg_and_as_png(content: RunContent, tmp_path: Path, language: str) -> None:
    files = write_figures(tmp_path / "figures", content, language=language)
    assert sorted(files) == sorted((tmp_path / "figures").iterdir())
    assert {file.stem for file in files if file.suffix == ".svg"} == {
        "standings-word_problems_ja",
        "fitness-by-generation",
        "fitness-by-tokens",
        "distribution",
        "weight-lines",
        "density-lines",
        "cost",
    }
    assert {file.stem for file in files if file.suffix == ".png"} == {
        file.stem for file in files if file.suffix == ".svg"
    }
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as picture:
                assert picture.width > 900
                assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24) or ()) > 5


@pytest.mark.slow
def test_figures_of_several_runs_are_kept_apart(scored_run: Path, bare_run: Path, tmp_path: Path) -> None:
    files = write_figures(tmp_path / "figures", read_runs([scored_run, bare_run]), language="en")
    names = {file.name for file in files}
    assert {"best-by-tokens.svg", "run1-cost.png", "run2-cost.png"} <= names
    assert len(names) == len(files)


def test_an_existing_folder_is_not_changed(content: RunContent, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    with pytest.raises(OutputExists):
        write_figures(tmp_path / "figures", content, language="en")
    with pytest.raises(OutputError, match="does not exist"):
        check_new(tmp_path / "missing" / "page.html")
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_file(tmp_path / "page.html", "x")
