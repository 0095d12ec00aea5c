"""Scores as a table and in words, alike in `score` and `grade`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from evovlm.cli.rendering import interval_text, percent, without_controls
from evovlm.cli.tables import plain_table, print_line

if TYPE_CHECKING:
    from evovlm.evaluation.comparison import Comparison
    from evovlm.recipes.candidate import TaskScore

_HEADINGS = ("score", "95 % interval", "ungated", "Japanese", "samples", "unscored")
_WIDE = 10_000
_MOST_REASONS = 5
_MOST_IDS = 3


def print_scores(console: Console, title: str, rows: Sequence[tuple[str, "TaskScore"]], *, of: str) -> None:
    """Print a table with a row per score, or, where the console is too narrow for it, its rows in words.

    `of` heads the column of names. Names and title come from files too: nothing in them is taken for markup or a
    terminal's commands.
    """
    headings = _HEADINGS if any(score.unscored for _, score in rows) else _HEADINGS[:-1]
    table = plain_table()
    table.add_column(of, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, score in rows:
        table.add_row(Text(without_controls(name)), *_cells(score)[: len(headings)])
    print_line(console, title)
    if console.measure(table, options=console.options.update(max_width=_WIDE)).maximum <= console.width:
        console.print(table)
        return
    for name, score in rows:
        told = ", ".join(f"{heading} {cell}" for heading, cell in zip(headings, _cells(score), strict=False))
        print_line(console, f"{name}: {told}")


def _cells(score: "TaskScore") -> list[str]:
    """Return what stands below each of the headings."""
    from evovlm.evaluation.intervals import mean_interval

    interval = interval_text(*mean_interval(score.per_sample))
    japanese = f"{100 * score.japanese:.0f} %"
    return [percent(score.score), interval, percent(score.ungated), japanese, str(score.n), str(score.unscored)]


def comparison_text(first: str, second: str, found: "Comparison") -> str:
    """Return a comparison in words, all figures with their signs."""
    return (
        f"{first} - {second}: {_signed(found.difference)} (95 % interval {_signed(found.low)} to "
        f"{_signed(found.high)}), p = {found.p_value:.2g} ({found.test}); better on {found.wins}, worse on "
        f"{found.losses}, alike on {found.ties} of {found.n} samples"
    )


def unscored_lines(reasons: Mapping[str, Sequence[str]], *, n: int) -> list[str]:
    """Return why samples have no score, a line per reason, and which they are; `reasons` holds the ids of each."""
    lines = []
    shown = list(reasons.items())[:_MOST_REASONS]
    for reason, ids in shown:
        named = f"{', '.join(ids[:_MOST_IDS])}{', ...' if len(ids) > _MOST_IDS else ''}"
        lines.append(f"{len(ids)} of {n} unscored: {reason} ({named})")
    left = sum(map(len, reasons.values())) - sum(len(ids) for _, ids in shown)
    if left:
        lines.append(f"{left} of {n} unscored for other reasons, which --save keeps")
    return lines


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}"
