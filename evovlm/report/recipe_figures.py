"""Figures of a recipe: the numbers of each source layer by layer, as lines and as a grid, and the route of a path."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.recipe_space import ALL_UNITS
from evovlm.recipes.space import UnitNumbers
from evovlm.report.content import Numbers
from evovlm.report.drawing import MARKERS, Drawing, Pen, legend, new_figure

_MOST_WRITTEN = 62
"""The most characters of a row, its name included, for which its numbers are written out."""
_MANY_LINES = 8
_MOST_TICKS = 18
_STEPS = 10


def recipe_drawings(numbers: Sequence[Numbers], path: LayerPath | None, pen: Pen) -> list[Drawing]:
    """Return the figures of a winner's recipe."""
    found = []
    for each in numbers:
        whole = len(each.units) == 1
        found += [_bars(each, pen)] if whole else [_lines(each, pen), _grid(each, pen), _difference(each, pen)]
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
        # Where only some numbers were searched, the marks are on these instead of on every unit.
        marks = {"marker": "none"} if each.knots else {}
        values = [math.nan if value is None else value for value in each.values]
        axes.plot(values, **{**line, **marks}, label=None if each.knots else each.source)
        if each.knots:
            places, found = zip(*each.knots, strict=True)
            axes.plot(places, found, linestyle="none", color=line["color"], marker=line["marker"], clip_on=False)
            axes.plot([], [], **line, label=each.source)
    axes.axhline(numbers.equal, color=pen.palette.muted, linewidth=1, linestyle=(0, (1, 2)), label=_equal(pen))
    for number, knot in enumerate(sorted({knot for each in lines for knot, _ in each.knots})):
        label = None if number else pen.say("knots")
        axes.axvline(knot, color=pen.palette.muted, linewidth=0.8, alpha=0.5, label=label)
    axes.set_ylim(*_range(numbers))


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
        figure=_heat_map(numbers, pen, title=title, limits=_range(numbers), colours="cividis"),
        headings=_headings(numbers, pen),
        rows=_table(numbers, pen),
    )


def _difference(numbers: Numbers, pen: Pen) -> Drawing:
    title = pen.say(f"difference_{numbers.parameter}")
    reach = max(
        0.05 * (numbers.high - numbers.low),
        *(abs(value - numbers.equal) for each in numbers.lines for value in _known(each)),
    )
    return Drawing(
        key=f"{numbers.parameter}-difference",
        title=title,
        alt=pen.say("difference_alt", n=len(numbers.units), equal=f"{numbers.equal:.3g}"),
        figure=_heat_map(numbers, pen, title=title, limits=(-reach, reach), colours="PuOr_r", apart=True),
        headings=_headings(numbers, pen),
        rows=_table(numbers, pen, apart=True),
    )


def _heat_map(
    numbers: Numbers,
    pen: Pen,
    *,
    title: str,
    limits: tuple[float, float],
    colours: str,
    apart: bool = False,
) -> Figure:
    """Return a grid of units by lines: of their values or (`apart`) how far these are from equal weights."""
    row_in = 0.32 if len(numbers.lines) < _MANY_LINES else 0.24
    figure = new_figure(pen, height_in=1.1 + row_in * len(numbers.lines), title=title)
    axes = figure.subplots()
    nothing = numbers.equal if apart else 0.0
    values = np.array(
        [[math.nan if value is None else value - nothing for value in each.values] for each in numbers.lines]
    )
    scale = colormaps[colours]
    norm = BoundaryNorm(np.linspace(*limits, _STEPS + 1), scale.N)
    # Units without tensors are left empty.
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=scale, norm=norm, edgecolors=pen.palette.paper, linewidth=1.2
    )
    longest = len(_text(0.0, numbers, signed=apart))
    if values.shape[1] * longest <= _MOST_WRITTEN - max(len(_label(each, pen)) for each in numbers.lines):
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                text, ink = _text(value, numbers, signed=apart), _ink_on(scale(norm(value)))
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(numbers.lines)) + 0.5, [_label(each, pen) for each in numbers.lines])
    _name_units(axes, numbers.units, pen, shift=0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    marks = f"{{x:{'+' if apart else ''}.{_places(numbers)}f}}"
    bar = figure.colorbar(mesh, ax=axes, ticks=np.linspace(*limits, 3), format=marks)
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


def _table(numbers: Numbers, pen: Pen, *, apart: bool = False) -> tuple[tuple[str, ...], ...]:
    marks, nothing = ("+.3f", numbers.equal) if apart else (".3f", 0.0)
    return tuple(
        (
            unit_text(unit, pen),
            *(
                "–" if (value := each.values[place]) is None else format(value - nothing, marks)
                for each in numbers.lines
            ),
        )
        for place, unit in enumerate(numbers.units)
    )
