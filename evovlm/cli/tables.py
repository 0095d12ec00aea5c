"""Tables that several commands print: scores, a Pareto front, and the style of all tables."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evovlm.cli.rendering import counted, in_lines, interval_text, percent, without_controls

if TYPE_CHECKING:
    from evovlm.evaluation.comparison import Comparison
    from evovlm.recipes.candidate import TaskScore
    from evovlm.recipes.low_score import LowScore
    from evovlm.runs.findings import FrontPoint

_HEADINGS = ("score", "95 % interval", "ungated", "Japanese", "samples", "unscored")
_WIDE = 10_000
_MOST_REASONS = 5
_MOST_IDS = 3


def plain_table(*headings: str, gap: int = 1, apart: bool = False) -> Table:
    """Return an empty table with `gap` + 1 spaces between columns, and with `apart` an empty line between rows."""
    return Table(*headings, box=SIMPLE_HEAD, padding=(0, gap, int(apart), 0))


def cell(text: str) -> Text:
    """Return a text that may come from a file as a cell or heading: it is not read as markup or as a command."""
    return Text(without_controls(text))


def print_line(console: Console, text: str) -> None:
    """Print one line as it is: no markup, no commands to the terminal; a terminal gets lines that fit."""
    shown = in_lines(without_controls(text), width=console.width) if console.is_terminal else without_controls(text)
    console.print(shown, markup=False, highlight=False, soft_wrap=True)


def print_scores(console: Console, title: str, rows: Sequence[tuple[str, "TaskScore"]], *, of: str) -> None:
    """Print a table with a row per score, or its rows in words where the console is too narrow.

    `of` is the heading of the names. Names and title may come from files: they are not read as markup or as commands
    to the terminal.
    """
    headings = _HEADINGS if any(score.unscored for _, score in rows) else _HEADINGS[:-1]
    table = plain_table()
    table.add_column(of, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, score in rows:
        table.add_row(cell(name), *_cells(score)[: len(headings)])
    print_line(console, title)
    if console.measure(table, options=console.options.update(max_width=_WIDE)).maximum <= console.width:
        console.print(table)
        return
    for name, score in rows:
        cells = ", ".join(f"{heading} {cell}" for heading, cell in zip(headings, _cells(score), strict=False))
        print_line(console, f"{name}: {cells}")


def _cells(score: "TaskScore") -> list[str]:
    """Return the cells of a row, in the order of the headings."""
    from evovlm.evaluation.intervals import mean_interval

    interval = interval_text(*mean_interval(score.per_sample))
    japanese = f"{100 * score.japanese:.0f} %"
    return [percent(score.score), interval, percent(score.ungated), japanese, str(score.n), str(score.unscored)]


def comparison_text(first: str, second: str, found: "Comparison") -> str:
    """Return a comparison in words, with signed figures."""
    return (
        f"{first} - {second}: {_signed(found.difference)} (95 % interval {_signed(found.low)} to "
        f"{_signed(found.high)}), p = {found.p_value:.2g} ({found.test}); better on {found.wins}, worse on "
        f"{found.losses}, equal on {found.ties} of {found.n} samples"
    )


def unscored_lines(reasons: Mapping[str, Sequence[str]], *, n: int) -> list[str]:
    """Return why samples are unscored, one line per reason; `reasons` holds the ids of the samples."""
    lines = []
    shown = list(reasons.items())[:_MOST_REASONS]
    for reason, ids in shown:
        named = f"{', '.join(ids[:_MOST_IDS])}{', ...' if len(ids) > _MOST_IDS else ''}"
        lines.append(f"{len(ids)} of {n} unscored: {reason} ({named})")
    left = sum(map(len, reasons.values())) - sum(len(ids) for _, ids in shown)
    if left:
        lines.append(f"{left} of {n} unscored for other reasons (--save lists all)")
    return lines


def thinking_lines(score: "TaskScore") -> list[str]:
    """Return how the scores of the repeats differ, and how long answers and thoughts are; nothing not measured."""
    lines = []
    if score.repeats:
        each = ", ".join(map(percent, score.repeats))
        lines.append(f"mean of {len(score.repeats)} repeats: {each} (standard deviation {percent(score.spread)})")
    found = score.thinking
    if found is not None:
        answers = score.n * max(1, len(score.repeats))
        lines.append(
            f"{found.tokens:.0f} tokens an answer, {found.thought_tokens:.0f} of them thought; {found.thoughts} of "
            f"{answers} answers with a thought, {100 * found.thought_japanese:.0f} % of these in Japanese"
        )
    return lines


def print_low(console: Console, low: "LowScore | None", *, of: str) -> None:
    """Print why a score is almost 0, with an example; nothing for None. `of` names the model or the task."""
    for place, line in enumerate(low.lines if low is not None else ()):
        # Folded, as prompts are long.
        console.print(cell(f"  {line}" if place else f"{of}: {line}"), highlight=False)


def _signed(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def print_front(console: Console, front: Sequence["FrontPoint"], *, goals: Sequence[str]) -> None:
    """Print a Pareto front as a table, one row a candidate, one column a goal."""
    print_line(console, f"Pareto front, {counted(len(front), 'candidate')}, search split")
    table = plain_table()
    table.add_column("candidate", justify="right")
    table.add_column("recipe")
    for goal in goals:
        table.add_column(cell(goal), justify="right")
    for point in front:
        table.add_row(str(point.entry.index), point.entry.recipe_id, *(percent(point.goals[goal]) for goal in goals))
    console.print(table)
