"""Figures of results: every model on the report split, seconds by phase, several runs side by side."""

from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from evovlm.report.content import Band, Cost, TaskReport
from evovlm.report.drawing import MARKERS, Drawing, Pen, legend, new_figure
from evovlm.report.search_figures import percent
from evovlm.runs.scores.contenders import Role

_MARKER_OF: dict[Role, int] = {"winner": 3, "stage": 2, "parent": 0, "baseline": 1}
_COLOUR_OF: dict[Role, int] = {"winner": 1, "stage": 3, "parent": 0, "baseline": 2}


def model_text(name: str, role: Role, pen: Pen) -> str:
    """Return a model's name in the page's language; a source keeps its own name."""
    return name if role == "parent" else pen.say(name)


def standings_drawing(report: TaskReport, pen: Pen) -> Drawing:
    """Return the figure of every model's score on a task."""
    say = pen.say
    title = say("standings_title", task=report.name)
    figure = new_figure(pen, height_in=0.85 + 0.36 * len(report.standings), title=title)
    axes = figure.subplots()
    names = [model_text(each.name, each.role, pen) for each in report.standings]
    for place, each in enumerate(report.standings):
        low, high = (100 * end for end in each.interval)
        colour = pen.palette.series[_COLOUR_OF[each.role]]
        axes.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round", clip_on=False)
        marker, size = MARKERS[_MARKER_OF[each.role]], 8 if each.role == "winner" else 6
        axes.plot([100 * each.score], [place], color=colour, marker=marker, markersize=size, clip_on=False)
        weight = "bold" if each.role == "winner" else "normal"
        label = percent(each.score)
        axes.annotate(label, (high, place), (6, 0), textcoords="offset points", va="center", fontweight=weight)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 109)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=9)
    axes.set_xlabel(say("standings_axis"))
    listed = say("comma").join(
        f"{name} {percent(each.score)}" for name, each in zip(names, report.standings, strict=True)
    )
    return Drawing(
        key="standings", title=title, alt=say("standings_alt", listed=listed), figure=figure, headings=(), rows=()
    )


def cost_drawing(cost: Cost, pen: Pen) -> Drawing:
    """Return the figure of seconds by phase."""
    say = pen.say
    phases = [phase_text(phase, pen) for phase in cost.seconds]
    figure = new_figure(pen, height_in=0.8 + 0.32 * len(phases), title=say("cost_title"))
    axes = figure.subplots()
    axes.barh(phases, list(cost.seconds.values()), height=0.55, color=pen.palette.series[0])
    for place, seconds in enumerate(cost.seconds.values()):
        axes.annotate(f"{seconds:,.1f}", (seconds, place), (4, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(say("seconds"))
    listed = say("comma").join(
        f"{phase} {seconds:.1f}" for phase, seconds in zip(phases, cost.seconds.values(), strict=True)
    )
    return Drawing(
        key="cost", title=say("cost_title"), alt=say("cost_alt", listed=listed), figure=figure, headings=(), rows=()
    )


def phase_text(phase: str, pen: Pen) -> str:
    """Return a phase's name in the page's language; an unknown phase keeps its own name."""
    return pen.say(f"phase_{phase}") if phase in ("merge", "generate", "score", "parents") else phase


def bands_drawing(bands: Sequence[Band], pen: Pen) -> Drawing:
    """Return the figure of several runs' best so far by generated tokens."""
    say = pen.say
    figure = new_figure(pen, height_in=3.7, title=say("compare_title"))
    axes = figure.subplots()
    for place, band in enumerate(bands):
        line = pen.line(place, points=len(band.tokens))
        label = band.label if len(band.runs) == 1 else say("n_seeds", label=band.label, n=len(band.runs))
        axes.plot(band.tokens, [100 * value for value in band.mean], label=label, drawstyle="steps-post", **line)
        if len(band.runs) > 1:
            low, high = ([100 * value for value in ends] for ends in (band.low, band.high))
            axes.fill_between(band.tokens, low, high, color=line["color"], alpha=0.18, linewidth=0, step="post")
    axes.set_xlabel(say("tokens"))
    axes.set_ylabel(say("fitness"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(left=0)
    legend(axes, columns=2)
    listed = say("comma").join(f"{band.label} {percent(band.mean[-1])}" for band in bands)
    return Drawing(
        key="best-by-tokens",
        title=say("compare_title"),
        alt=say("compare_alt", listed=listed),
        figure=figure,
        headings=(say("run"), say("tokens"), say("best_so_far"), say("interval")),
        rows=tuple(
            (
                band.label,
                f"{band.tokens[-1]:,.0f}",
                percent(band.mean[-1]),
                say("between", low=percent(band.low[-1]), high=percent(band.high[-1])),
            )
            for band in bands
        ),
    )
