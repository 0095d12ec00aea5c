"""Figures of how a search went."""

import itertools
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from evovlm.report.drawing import Drawing, Pen, legend, new_figure
from evovlm.report.search_content import Course, Goals, Point

_MOST_DOTS = 2000
_MOST_PANELS = 3
_LEAST_HEIGHT = 2.0


def search_drawings(course: Course, pen: Pen) -> list[Drawing]:
    """Return the figures of a search; empty while every candidate has failed."""
    if not course.points:
        return []
    found = [_by_generation(course, pen), _by_tokens(course, pen)]
    if course.replayed and any(point.sigma is not None for point in course.points):
        found.append(_distribution(course.points, pen))
    if course.goals is not None:
        found.append(_goals(course.goals, pen))
    return found


def percent(value: float) -> str:
    """Return a score in [0, 1] as people read it: 41.5."""
    return f"{100 * value:.1f}"


def _by_generation(course: Course, pen: Pen) -> Drawing:
    points, say = course.points, pen.say
    figure = new_figure(pen, height_in=3.3, title=say("by_generation"))
    axes = _fitness_axes(figure, pen)
    _curves(axes, points, lambda point: point.generation, pen)
    if course.snapshots:
        generations, fitnesses = zip(*course.snapshots, strict=True)
        axes.plot(
            generations, _hundredfold(fitnesses), label=say("validation_mean"), **pen.line(2, points=len(generations))
        )
    evaluated = [row for row in course.candidates if row.fitness is not None]
    if len(evaluated) <= _MOST_DOTS:
        _dots(axes, [row.generation for row in evaluated], [row.fitness or 0.0 for row in evaluated], pen)
    axes.set_xlabel(say("generation"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _widen(axes)
    legend(axes)
    return Drawing(
        key="fitness-by-generation",
        title=say("by_generation"),
        alt=say(
            "by_generation_alt",
            n=len(points),
            first=percent(points[0].best_so_far),
            last=percent(points[-1].best_so_far),
            mean_first=percent(points[0].mean),
            mean_last=percent(points[-1].mean),
        ),
        figure=figure,
        headings=(say("generation"), say("best_so_far"), say("mean"), say("spread"), say("tokens")),
        rows=tuple(_point_row(point, pen) for point in points),
    )


def _by_tokens(course: Course, pen: Pen) -> Drawing:
    points, say = course.points, pen.say
    figure = new_figure(pen, height_in=3.3, title=say("by_tokens"))
    axes = _fitness_axes(figure, pen)
    _curves(axes, points, lambda point: point.tokens, pen)
    evaluated = [row for row in course.candidates if row.fitness is not None]
    if len(evaluated) <= _MOST_DOTS:
        spent = list(itertools.accumulate(row.tokens for row in evaluated))
        _dots(axes, spent, [row.fitness or 0.0 for row in evaluated], pen)
    axes.set_xlabel(say("tokens"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(left=0)
    _widen(axes)
    legend(axes)
    last = points[-1]
    return Drawing(
        key="fitness-by-tokens",
        title=say("by_tokens"),
        alt=say("by_tokens_alt", last=percent(last.best_so_far), tokens=f"{last.tokens:,}"),
        figure=figure,
        headings=(),
        rows=(),
    )


def _distribution(points: Sequence[Point], pen: Pen) -> Drawing:
    say = pen.say
    known = [(point.generation, point.sigma, point.condition) for point in points]
    whole = [(place, sigma, condition) for place, sigma, condition in known if sigma and condition]
    figure = new_figure(pen, height_in=3.3, title=say("distribution"))
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = [place for place, _, _ in whole]
    upper.plot(places, [sigma for _, sigma, _ in whole], **pen.line(0, points=len(places)))
    upper.set_ylabel(say("sigma"))
    upper.set_ylim(0, 1.1 * max(sigma for _, sigma, _ in whole))
    lower.plot(places, [condition for _, _, condition in whole], **pen.line(1, points=len(places)))
    lower.set_ylabel(say("condition"))
    if max(condition for _, _, condition in whole) > 20:
        lower.set_yscale("log")
    lower.set_xlabel(say("generation"))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    first, last = whole[0], whole[-1]
    return Drawing(
        key="distribution",
        title=say("distribution"),
        alt=say(
            "distribution_alt",
            n=len(whole),
            sigma_first=f"{first[1]:.3g}",
            sigma_last=f"{last[1]:.3g}",
            condition_first=f"{first[2]:.3g}",
            condition_last=f"{last[2]:.3g}",
        ),
        figure=figure,
        headings=(say("generation"), say("sigma"), say("condition")),
        rows=tuple((str(place), f"{sigma:.4g}", f"{condition:.4g}") for place, sigma, condition in whole),
    )


def _goals(goals: Goals, pen: Pen) -> Drawing:
    """Return the figure of the first goal against each of the others."""
    say, names = pen.say, goals.names
    others = list(range(1, len(names)))[:_MOST_PANELS]
    figure = new_figure(pen, height_in=0.9 + 2.6 * len(others), title=say("goals"))
    panels = figure.subplots(len(others), 1, sharex=True, squeeze=False)[:, 0]
    for axes, other in zip(panels, others, strict=True):
        _dots(axes, [100 * values[0] for values in goals.others], [values[other] for values in goals.others], pen)
        # The best in the first goal comes first.
        front = [(100 * row.values[0], 100 * row.values[other]) for row in reversed(goals.front)]
        # The front of more than two goals is not a line.
        shape = {"drawstyle": "steps-pre"} if len(names) == 2 else {"linestyle": "none"}
        axes.plot(*zip(*front, strict=True), label=say("front"), **{**pen.line(1), **shape})
        knee = goals.front[goals.knee].values
        axes.plot(
            [100 * knee[0]],
            [100 * knee[other]],
            label=say("knee"),
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=pen.palette.ink,
        )
        axes.set_ylabel(f"{names[other]} (%)")
    panels[-1].set_xlabel(f"{names[0]} (%)")
    legend(panels[0], columns=3)
    return Drawing(
        key="goals",
        title=say("goals"),
        alt=say("goals_alt", x=names[0], y=say("comma").join(names[1:]), n=len(goals.front)),
        figure=figure,
        headings=(),
        rows=(),
    )


def _fitness_axes(figure: Figure, pen: Pen) -> Axes:
    axes = figure.subplots()
    axes.set_ylabel(pen.say("fitness"))
    return axes


def _widen(axes: Axes) -> None:
    """Show at least two points of fitness, so that negligible differences do not fill the figure."""
    low, high = axes.get_ylim()
    if high - low < _LEAST_HEIGHT:
        middle = max((low + high) / 2, _LEAST_HEIGHT / 2)
        axes.set_ylim(middle - _LEAST_HEIGHT / 2, middle + _LEAST_HEIGHT / 2)


def _dots(axes: Axes, places: Sequence[float], fitnesses: Sequence[float], pen: Pen) -> None:
    axes.plot(
        places,
        _hundredfold(fitnesses),
        zorder=1.5,
        linestyle="none",
        marker=".",
        markersize=5,
        color=pen.palette.muted,
        alpha=0.7,
        markeredgewidth=0,
        label=pen.say("candidate_dots"),
    )


def _curves(axes: Axes, points: Sequence[Point], place: Callable[[Point], float], pen: Pen) -> None:
    places = [place(point) for point in points]
    best, means = [point.best_so_far for point in points], [point.mean for point in points]
    axes.plot(places, _hundredfold(best), label=pen.say("best_so_far"), **pen.line(1, points=len(places)))
    axes.plot(places, _hundredfold(means), label=pen.say("mean"), **pen.line(0, points=len(places)))
    axes.fill_between(
        places,
        _hundredfold([point.low for point in points]),
        _hundredfold([point.high for point in points]),
        color=pen.palette.series[0],
        alpha=0.18,
        linewidth=0,
        label=pen.say("spread"),
    )


def _point_row(point: Point, pen: Pen) -> tuple[str, ...]:
    spread = pen.say("between", low=percent(point.low), high=percent(point.high))
    return (
        str(point.generation),
        percent(point.best_so_far),
        percent(point.mean),
        spread,
        f"{point.tokens:,}",
    )


def _hundredfold(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]
