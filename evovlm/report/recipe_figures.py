"""Figures of a recipe: the numbers of each source layer by layer, and the route of a path."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import CubicSpline

from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.recipe_space import ALL_UNITS
from evovlm.recipes.space import UnitNumbers
from evovlm.report.content import Numbers
from evovlm.report.drawing import MARKERS, Drawing, Pen, legend, new_figure

Floats: TypeAlias = npt.NDArray[np.float64]

_MOST_WRITTEN = 62
"""The most characters of a row, its name included, for which its numbers are written out."""
_MANY_LINES = 8
_MOST_LINES = 6
_CURVE_POINTS = 200
_MOST_TICKS = 18
_STEPS = 10


def recipe_drawings(numbers: Sequence[Numbers], path: LayerPath | None, pen: Pen) -> list[Drawing]:
    """Return the figures of a winner's recipe."""
    found = []
    for each in numbers:
        if len(each.units) == 1:
            found.append(_bars(each, pen))
        else:
            # Many lines cross too often to be followed.
            n_sources = len({line.source for line in each.lines})
            found.append(_lines(each, pen) if n_sources <= _MOST_LINES else _grid(each, pen))
    return [*found, _route(path, pen)] if path is not None else found


def _lines(numbers: Numbers, pen: Pen) -> Drawing:
    """Return the figure of numbers over the units, with a panel for each component where components differ."""
    say, title = pen.say, pen.say(f"lines_{numbers.parameter}")
    components = list(dict.fromkeys(each.component for each in numbers.lines))
    figure = new_figure(pen, height_in=3.1 if len(components) == 1 else 0.9 + 1.25 * len(components), title=title)
    panels = figure.subplots(len(components), 1, sharex=True, squeeze=False)[:, 0]
    for axes, component in zip(panels, components, strict=True):
        _panel(axes, numbers, [each for each in numbers.lines if each.component == component], pen)
        axes.set_ylabel(say(component or numbers.parameter))
    _name_units(panels[-1], numbers.units, pen)
    legend(panels[0], columns=4)
    listed = say("comma").join(
        f"{_label(each, pen)} {say('between', low=_text(min(known), numbers), high=_text(max(known), numbers))}"
        for each in numbers.lines
        if (known := _known(each))
    )
    knots = " " + say("knots_alt") if any(each.knots for each in numbers.lines) else ""
    return Drawing(
        key=f"{numbers.parameter}-lines",
        title=title,
        alt=say("lines_alt", n=len(numbers.units), listed=listed) + knots,
        figure=figure,
        headings=_headings(numbers, pen),
        rows=_table(numbers, pen),
    )


def _panel(axes: Axes, numbers: Numbers, lines: Sequence[UnitNumbers], pen: Pen) -> None:
    for place, each in enumerate(lines):
        line = pen.line(place)
        values = [math.nan if value is None else value for value in each.values]
        if not each.knots:
            axes.plot(values, **line, label=each.source)
            continue
        # Only the knots were searched: marks are on them, and the curve is the spline from which units took numbers.
        style = {**line, "marker": "none"}
        axes.plot(*_spline(each, numbers), **style)
        places, found = zip(*each.knots, strict=True)
        axes.plot(places, found, linestyle="none", color=line["color"], marker=line["marker"], clip_on=False)
        axes.plot([], [], **line, label=each.source)
    axes.axhline(numbers.equal, color=pen.palette.muted, linewidth=1, linestyle=(0, (1, 2)), label=_equal(pen))
    for number, knot in enumerate(sorted({knot for each in lines for knot, _ in each.knots})):
        label = None if number else pen.say("knots")
        axes.axvline(knot, color=pen.palette.muted, linewidth=0.8, alpha=0.5, label=label)
    axes.set_ylim(*_range(numbers))


def _spline(line: UnitNumbers, numbers: Numbers) -> tuple[Floats, Floats]:
    """Return the curve through a line's knots; before the first block and after the last it keeps their numbers."""
    places, found = (np.array(each) for each in zip(*line.knots, strict=True))
    curve = np.linspace(places[0], places[-1], _CURVE_POINTS)
    values = np.clip(CubicSpline(places, found)(curve), numbers.low, numbers.high)
    ends = (0.0, len(numbers.units) - 1.0)
    return np.array([ends[0], *curve, ends[1]]), np.array([values[0], *values, values[-1]])


def _bars(numbers: Numbers, pen: Pen) -> Drawing:
    """Return the figure of numbers for the whole model, beside those of equal weights."""
    say, title = pen.say, pen.say(f"bars_{numbers.parameter}")
    figure = new_figure(pen, height_in=1.0 + 0.34 * len(numbers.lines), title=title)
    axes = figure.subplots()
    sources = list(dict.fromkeys(each.source for each in numbers.lines))
    bars = [(_label(each, pen), each.source, each.values[0] or 0.0) for each in numbers.lines]
    for place, (label, source, value) in enumerate(bars):
        colour = pen.palette.series[sources.index(source) % len(pen.palette.series)]
        axes.barh(label, value, height=0.55, color=colour)
        beside = f"{_text(value, numbers)} ({_text(value - numbers.equal, numbers, signed=True)})"
        axes.annotate(beside, (max(0.0, value), place), (4, 0), textcoords="offset points", va="center")
    axes.axvline(numbers.equal, color=pen.palette.ink, linewidth=1, linestyle=":", label=_equal(pen))
    low, high = _range(numbers)
    axes.set_xlim(low, high + 0.35 * (high - low))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    legend(axes)
    listed = say("comma").join(f"{label} {_text(value, numbers)}" for label, _, value in bars)
    return Drawing(
        key=numbers.parameter,
        title=title,
        alt=say("bars_alt", listed=listed, equal=_text(numbers.equal, numbers)),
        figure=figure,
        headings=(say("source"), say(numbers.parameter), _equal(pen)),
        rows=tuple((label, f"{value:.3f}", f"{numbers.equal:.3f}") for label, _, value in bars),
    )


def _grid(numbers: Numbers, pen: Pen) -> Drawing:
    title = pen.say(f"heat_{numbers.parameter}")
    return Drawing(
        key=f"{numbers.parameter}-grid",
        title=title,
        alt=pen.say("heat_alt", n=len(numbers.units)),
        figure=_heat_map(numbers, pen, title=title),
        headings=_headings(numbers, pen),
        rows=_table(numbers, pen),
    )


def _heat_map(numbers: Numbers, pen: Pen, *, title: str) -> Figure:
    """Return a grid of units by lines."""
    row_in = 0.32 if len(numbers.lines) < _MANY_LINES else 0.24
    figure = new_figure(pen, height_in=1.1 + row_in * len(numbers.lines), title=title)
    axes = figure.subplots()
    values = np.array([[math.nan if value is None else value for value in each.values] for each in numbers.lines])
    scale = colormaps["cividis"]
    limits = _range(numbers)
    norm = BoundaryNorm(np.linspace(*limits, _STEPS + 1), scale.N)
    # Units without tensors are left empty.
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=scale, norm=norm, edgecolors=pen.palette.paper, linewidth=1.2
    )
    longest = len(_text(0.0, numbers))
    if values.shape[1] * longest <= _MOST_WRITTEN - max(len(_label(each, pen)) for each in numbers.lines):
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                text, ink = _text(value, numbers), _ink_on(scale(norm(value)))
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(numbers.lines)) + 0.5, [_label(each, pen) for each in numbers.lines])
    _name_units(axes, numbers.units, pen, shift=0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, ticks=np.linspace(*limits, 3), format=f"{{x:.{_places(numbers)}f}}")
    bar.outline.set_visible(False)
    bar.minorticks_off()
    return figure


def _ink_on(colour: tuple[float, float, float, float]) -> str:
    """Return the colour of a text that can be read on this one."""
    red, green, blue, _ = colour
    # Relative luminance without gamma is enough to choose between black and white.
    return "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"


def _route(path: LayerPath, pen: Pen) -> Drawing:
    say = pen.say
    names = path.sources
    figure = new_figure(pen, height_in=3.9, title=say("path_title"))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    hops = list(range(len(path)))
    upper.plot(hops, [step.layer for step in path.steps], color=pen.palette.muted, linewidth=1, zorder=1)
    for place, name in enumerate(names):
        own = [hop for hop in hops if path.steps[hop].source == name]
        colour, marker = pen.palette.series[place % len(pen.palette.series)], MARKERS[place % len(MARKERS)]
        layers = [path.steps[hop].layer for hop in own]
        upper.plot(own, layers, linestyle="none", color=colour, marker=marker, markersize=6, label=name)
        lower.bar(own, [path.steps[hop].scale for hop in own], color=colour, width=0.7)
    upper.set_ylabel(say("layer"))
    upper.yaxis.set_major_locator(MaxNLocator(integer=True))
    lower.axhline(1.0, color=pen.palette.muted, linewidth=0.8, linestyle="--")
    lower.set_ylabel(say("scale"))
    lower.set_xlabel(say("hop"))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(upper, columns=4)
    return Drawing(
        key="path",
        title=say("path_title"),
        alt=say("path_alt", hops=len(path), blocks=len(path.blocks), sources=say("comma").join(names)),
        figure=figure,
        headings=(say("hop"), say("source"), say("layer"), say("scale")),
        rows=tuple(
            (str(hop), step.source, str(step.layer), f"{step.scale:.4g}") for hop, step in enumerate(path.steps)
        ),
    )


def _known(line: UnitNumbers) -> list[float]:
    return [value for value in line.values if value is not None]


def _label(line: UnitNumbers, pen: Pen) -> str:
    """Return the name of a line: its source, and its component where components differ."""
    return line.source if line.component is None else f"{line.source} · {pen.say(line.component)}"


def _equal(pen: Pen) -> str:
    return pen.say("equal_line")


def _places(numbers: Numbers) -> int:
    """Return the number of decimal places that distinguishes numbers of that size."""
    return 2 if numbers.high - numbers.low > 0.5 else 3


def _text(value: float, numbers: Numbers, *, signed: bool = False) -> str:
    places = _places(numbers)
    # No -0.00.
    return f"{round(value, places) + 0.0:{'+' if signed else ''}.{places}f}"


def _range(numbers: Numbers) -> tuple[float, float]:
    """Return the ends of an axis: the range of the search, and any numbers beyond it."""
    values = [value for each in numbers.lines for value in _known(each)]
    return min(0.0, numbers.low, *values), max(numbers.high, numbers.equal, *values)


def _name_units(axes: Axes, units: Sequence[str], pen: Pen, *, shift: float = 0.0) -> None:
    step = max(1, -(-len(units) // _MOST_TICKS))
    last = len(units) - 1
    shown = [place for place in range(len(units)) if place in (0, last) or (place - 1) % step == 0]
    # The label before the last would run into the head's name.
    shown = [place for place in shown if place == last or last - place >= step or step == 1]
    labels = [_short(units[place], pen) for place in shown]
    axes.set_xticks([place + shift for place in shown], labels)


def _short(unit: str, pen: Pen) -> str:
    """Return a unit's name for an axis: `block3` is 3."""
    return unit.removeprefix("block") if unit.startswith("block") else pen.say(f"{unit}_short")


def unit_text(unit: str, pen: Pen) -> str:
    """Return a unit's name in the page's language."""
    if unit.startswith("block"):
        return unit
    return pen.say("all_units" if unit == ALL_UNITS else unit)


def _headings(numbers: Numbers, pen: Pen) -> tuple[str, ...]:
    return (pen.say("unit"), *(_label(each, pen) for each in numbers.lines))


def _table(numbers: Numbers, pen: Pen) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            unit_text(unit, pen),
            *("–" if (value := each.values[place]) is None else format(value, ".3f") for each in numbers.lines),
        )
        for place, unit in enumerate(numbers.units)
    )
