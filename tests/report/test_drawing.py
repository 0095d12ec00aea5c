"""Figures as SVG."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from evovlm.recipes.space import UnitNumbers
from evovlm.report.content import Numbers, RunContent
from evovlm.report.drawing import Drawing, file_pen, inline_svg, page_pen, png_file, style, svg_file
from evovlm.report.recipe_figures import recipe_drawings
from evovlm.report.result_figures import standings_drawing
from evovlm.texts.languages import speaker


def test_a_figure_on_the_page_has_words_for_who_does_not_see_it(inline_figures: list[tuple[Drawing, str]]) -> None:
    for drawing, svg in inline_figures:
        root = ElementTree.fromstring(svg)  # noqa: S314 - our own
        assert root.get("role") == "img"
        labels = str(root.get("aria-labelledby")).split()
        by_id = {each.get("id"): each.text for each in root.iter()}
        assert [by_id[label] for label in labels] == [drawing.title, drawing.alt]
        assert drawing.alt.strip()


def test_its_text_is_text_and_its_colours_are_the_pages(inline_figures: list[tuple[Drawing, str]]) -> None:
    for drawing, svg in inline_figures:
        assert "<text" in svg, drawing.key
        assert "var(--" in svg
        assert "#0102" not in svg
        for foreign in ("<style", "<metadata", "http://", "https://", "font-family", "xlink"):
            assert foreign not in svg, (drawing.key, foreign)


def test_ids_of_two_figures_never_meet(inline_figures: list[tuple[Drawing, str]]) -> None:
    ids = [each for _, svg in inline_figures for each in set(re.findall(r' id="([^"]+)"', svg))]
    assert len(ids) == len(set(ids))


def test_figures_for_files_are_the_same_bytes_each_time_in_real_colours_and_with_their_title(
    content: RunContent,
) -> None:
    pen = file_pen(speaker("en"))
    with style(pen):
        first, again = (standings_drawing(content.reports[0], pen) for _ in range(2))
        text = svg_file(first)
        assert text == svg_file(again)
        assert png_file(first) == png_file(again)
    assert "Score on word_problems_ja" in text
    assert "#0102" not in text
    assert "var(" not in text
    ElementTree.fromstring(text)  # noqa: S314 - our own


@pytest.mark.parametrize(("n_sources", "key"), [(6, "weight-lines"), (7, "weight-grid")])
def test_many_sources_are_a_grid_since_their_lines_would_cross_too_often(n_sources: int, key: str) -> None:
    lines = tuple(
        UnitNumbers(source=f"s{each}", parameter="weight", component=None, values=(0.1 * each, None, 1.0))
        for each in range(n_sources)
    )
    units = ("embedding", "block0", "head")
    numbers = Numbers(parameter="weight", units=units, lines=lines, equal=0.2, low=0.0, high=1.0)
    pen = page_pen(speaker("en"))
    with style(pen):
        (drawing,) = recipe_drawings([numbers], None, pen)
        assert "<svg" in inline_svg(drawing, prefix="x")
    assert drawing.key == key
    assert len(drawing.rows) == 3


def test_a_spline_is_drawn_through_its_knots() -> None:
    knots = ((1.0, 0.2), (3.5, 0.9), (6.0, 0.4))
    line = UnitNumbers(source="s", parameter="weight", component=None, values=(0.2,) * 8, knots=knots)
    numbers = Numbers(
        parameter="weight",
        units=("embedding", *(f"block{each}" for each in range(6)), "head"),
        lines=(line,),
        equal=0.5,
        low=0.0,
        high=1.0,
    )
    pen = page_pen(speaker("en"))
    with style(pen):
        (drawing,) = recipe_drawings([numbers], None, pen)
    curve = drawing.figure.axes[0].lines[0]
    places, values = (list(each) for each in curve.get_data())
    assert (places[0], places[-1]) == (0.0, 7.0)
    for place, value in knots:
        nearest = min(range(len(places)), key=lambda index: abs(float(places[index]) - place))
        assert float(values[nearest]) == pytest.approx(value, abs=0.02)
