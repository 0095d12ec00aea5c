"""A path as an SVG."""

from xml.etree import ElementTree

from evovlm.recipes.layer_path import LayerPath, LayerStep
from evovlm.recipes.path_figure import path_svg

_SVG = "{http://www.w3.org/2000/svg}"


def test_each_hop_has_a_dot_in_its_sources_colour_and_a_bar_for_its_scale() -> None:
    steps = (("a", 0, 1.0), ("b", 3, -2.0), ("a", 1, 0.5))
    path = LayerPath(steps=tuple(LayerStep(source=name, layer=layer, scale=scale) for name, layer, scale in steps))
    root = ElementTree.fromstring(path_svg(path))  # noqa: S314 (our own text)
    groups = root.findall(f"{_SVG}g")
    assert [group.find(f"{_SVG}title").text for group in groups] == [
        "hop 0: a 0, scale 1",
        "hop 1: b 3, scale -2",
        "hop 2: a 1, scale 0.5",
    ]
    dots = [group.find(f"{_SVG}circle") for group in groups]
    assert dots[0].get("fill") == dots[2].get("fill") != dots[1].get("fill")
    # Upwards is towards 0.
    assert float(dots[1].get("cy")) < float(dots[2].get("cy")) < float(dots[0].get("cy"))
    bars = [group.find(f"{_SVG}rect") for group in groups]
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[1] == 2 * heights[0] == 4 * heights[2]
    assert float(bars[1].get("y")) == float(bars[0].get("y")) + heights[0]
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (left, top) == (0, 0)
    assert all(float(bar.get("y")) >= 0 and float(bar.get("y")) + float(bar.get("height")) <= height for bar in bars)
    assert all(0 < float(dot.get("cx")) < width for dot in dots)


def test_a_path_of_one_hop_and_zero_is_drawn() -> None:
    ElementTree.fromstring(path_svg(LayerPath(steps=(LayerStep(source="a", layer=0, scale=0.0),))))  # noqa: S314
