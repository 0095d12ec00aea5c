"""Figures as SVG."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from evovlm.report.content import RunContent
from evovlm.report.drawing import Drawing, file_pen, inline_svg, page_pen, png_file, style, svg_file
from evovlm.report.page import run_drawings
from evovlm.report.texts import LANGUAGES, speaker


def _inline(content: RunContent, language: str = "en") -> list[tuple[Drawing, str]]:
    pen = page_pen(speaker(language))
    with style(pen):
        return [(drawing, inline_svg(drawing, prefix=name)) for name, drawing in run_drawings(content, pen)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_figure_on_the_page_has_words_for_who_does_not_see_it(content: RunContent, language: str) -> None:
    for drawing, svg in _inline(content, language):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        labels = str(root.get("aria-labelledby")).split()
        by_id = {each.get("id"): each.text for each in root.iter()}
        assert [by_id[label] for label in labels] == [drawing.title, drawing.alt]
        assert drawing.alt.strip()


def test_its_text_is_text_and_its_colours_are_the_pages(content: RunContent) -> None:
    for drawing, svg in _inline(content):
        assert "<text" in svg, drawing.key
        assert "var(--" in svg
        assert "#0102" not in svg
        for foreign in ("<style", "<metadata", "http://", "https://", "font-family", "xlink"):
            assert foreign not in svg.replace('xmlns="http://www.w3.org/2000/svg"', ""), (drawing.key, foreign)


def test_ids_of_two_figures_never_meet(content: RunContent) -> None:
    ids = [each for _, svg in _inline(content) for each in set(re.findall(r' id="([^"]+)"', svg))]
    assert len(ids) == len(set(ids))


def test_figures_are_the_same_bytes_each_time(content: RunContent) -> None:
    assert [svg for _, svg in _inline(content)] == [svg for _, svg in _inline(content)]
    pen = file_pen(speaker("en"))
    with style(pen):
        (_, first), (_, again) = run_drawings(content, pen)[0], run_drawings(content, pen)[0]
        assert svg_file(first) == svg_file(again)
        assert png_file(first) == png_file(again)


def test_figures_for_files_have_real_colours_and_their_title(content: RunContent) -> None:
    pen = file_pen(speaker("en"))
    with style(pen):
        text = svg_file(run_drawings(content, pen)[0][1])
    assert "Score on word_problems_ja" in text
    assert "#0102" not in text
    assert "var(" not in text
    ElementTree.fromstring(text)
