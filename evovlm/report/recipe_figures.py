"""Figures of a recipe: a source's part layer by layer as lines and as a grid, and the route of a path."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evovlm.recipes.layer_path import LayerPath
from evovlm.report.content import Numbers
from evovlm.report.drawing import MARKERS, Drawing, Pen, legend, new_figure

_MOST_WRITTEN = 12
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
    say, title = pen.say, pen.say(f"lines_{numbers.parameter}")
    figure = new_figure(pen, height_in=3.1, title=title)
    axes = figure.subplots()
    for place, (name, values) in enumerate(numbers.by_source.items()):
        axes.plot(values, label=name, **pen.line(place))
    axes.axhline(numbers.equal, color=pen.palette.muted, linewidth=1, linestyle=(0, (1, 2)), label=say("equal_line"))
    for knot in numbers.knots:
        axes.axvline(knot, color=pen.palette.grid, linewidth=1)
    axes.set_ylabel(say(numbers.parameter))
    axes.set_ylim(*_range(numbers))
    _name_units(axes, numbers.units, pen)
    legend(axes, columns=4)
    told = ", ".join(
        f"{name} {say('between', low=f'{min(values):.2f}', high=f'{max(values):.2f}')}"
        for name, values in numbers.by_source.items()
    )
    return Drawing(
        key=f"{numbers.parameter}-lines",
        title=title,
        alt=say("lines_alt", n=len(numbers.units), told=told),
        figure=figure,
        headings=(say("unit"), *numbers.by_source),
        rows=_table(numbers, numbers.by_source, pen),
    )


def _bars(numbers: Numbers, pen: Pen) -> Drawing:
    """Return the figure of numbers that hold for the whole model, beside those of equal weights."""
    say, title = pen.say, pen.say(f"bars_{numbers.parameter}")
    figure = new_figure(pen, height_in=1.0 + 0.34 * len(numbers.by_source), title=title)
    axes = figure.subplots()
    for place, (name, values) in enumerate(numbers.by_source.items()):
        axes.barh(name, values[0], height=0.55, color=pen.palette.series[place % len(pen.palette.series)])
        label = f"{values[0]:.2f} ({values[0] - numbers.equal:+.2f})"
        axes.annotate(label, (max(0.0, values[0]), place), (4, 0), textcoords="offset points", va="center")
    axes.axvline(numbers.equal, color=pen.palette.ink, linewidth=1, linestyle=":", label=say("equal_line"))
    low, high = _range(numbers)
    axes.set_xlim(low, high + 0.35 * (high - low))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    legend(axes)
    told = ", ".join(f"{name} {values[0]:.2f}" for name, values in numbers.by_source.items())
    return Drawing(
        key=numbers.parameter,
        title=title,
        alt=say("bars_alt", told=told, equal=f"{numbers.equal:.2f}"),
        figure=figure,
        headings=(say("source"), say(numbers.parameter), say("equal_line")),
        rows=tuple((name, f"{values[0]:.3f}", f"{numbers.equal:.3f}") for name, values in numbers.by_source.items()),
    )


def _grid(numbers: Numbers, pen: Pen) -> Drawing:
    title = pen.say(f"heat_{numbers.parameter}")
    return Drawing(
        key=f"{numbers.parameter}-grid",
        title=title,
        alt=pen.say("heat_alt", n=len(numbers.units)),
        figure=_heat_map(numbers, numbers.by_source, pen, title=title, limits=_range(numbers), colours="cividis"),
        headings=(pen.say("unit"), *numbers.by_source),
        rows=_table(numbers, numbers.by_source, pen),
    )


def _difference(numbers: Numbers, pen: Pen) -> Drawing:
    title = pen.say(f"difference_{numbers.parameter}")
    apart = {name: tuple(value - numbers.equal for value in values) for name, values in numbers.by_source.items()}
    reach = max(0.05, *(abs(value) for values in apart.values() for value in values))
    limits = (-reach, reach)
    return Drawing(
        key=f"{numbers.parameter}-difference",
        title=title,
        alt=pen.say("difference_alt", n=len(numbers.units), equal=f"{numbers.equal:.3g}"),
        figure=_heat_map(numbers, apart, pen, title=title, limits=limits, colours="PuOr_r", signed=True),
        headings=(pen.say("unit"), *numbers.by_source),
        rows=_table(numbers, apart, pen, signed=True),
    )


def _heat_map(
    numbers: Numbers,
    by_source: Mapping[str, Sequence[float]],
    pen: Pen,
    *,
    title: str,
    limits: tuple[float, float],
    colours: str,
    signed: bool = False,
) -> Figure:
    figure = new_figure(pen, height_in=1.1 + 0.32 * len(by_source), title=title)
    axes = figure.subplots()
    values = np.array(list(by_source.values()), dtype=np.float64)
    scale = colormaps[colours]
    norm = BoundaryNorm(np.linspace(*limits, _STEPS + 1), scale.N)
    mesh = axes.pcolormesh(values, cmap=scale, norm=norm, edgecolors=pen.palette.paper, linewidth=1.2)
    if values.shape[1] <= _MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(values):
            red, green, blue, _ = scale(norm(value))
            # Relative luminance, without its gamma: enough to choose between black and white.
            ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
            text = f"{value:+.2f}" if signed else f"{value:.2f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(by_source)) + 0.5, list(by_source))
    _name_units(axes, numbers.units, pen, shift=0.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    marks = f"{{x:{'+' if signed else ''}.2f}}"
    bar = figure.colorbar(mesh, ax=axes, ticks=np.linspace(*limits, 3), format=marks)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    return figure


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
        alt=say("path_alt", hops=len(path), blocks=len(path.blocks), sources=", ".join(names)),
        figure=figure,
        headings=(say("hop"), say("source"), say("layer"), say("scale")),
        rows=tuple(
            (str(hop), step.source, str(step.layer), f"{step.scale:.4g}") for hop, step in enumerate(path.steps)
        ),
    )


def _range(numbers: Numbers) -> tuple[float, float]:
    """Return from where to where an axis goes: at least all of [0, 1], in which most numbers lie."""
    values = [value for each in numbers.by_source.values() for value in each]
    return min(0.0, *values), max(1.0, *values)


def _name_units(axes: Axes, units: Sequence[str], pen: Pen, *, shift: float = 0.0) -> None:
    step = max(1, -(-len(units) // _MOST_TICKS))
    last = len(units) - 1
    shown = [place for place in range(len(units)) if place in (0, last) or (place - 1) % step == 0]
    # The last but one would run into the head's name.
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
    return pen.say(unit or "all_units")


def _table(
    numbers: Numbers, by_source: Mapping[str, Sequence[float]], pen: Pen, *, signed: bool = False
) -> tuple[tuple[str, ...], ...]:
    marks = "+.3f" if signed else ".3f"
    return tuple(
        (unit_text(unit, pen), *(format(values[place], marks) for values in by_source.values()))
        for place, unit in enumerate(numbers.units)
    )
