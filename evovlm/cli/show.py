"""`evovlm show RUN`: what a run found so far."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from evovlm.runs.summary import RunSummary


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder; the run may still be going on.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many candidates to list.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show a run: its best candidates, the winner's numbers, and how the search went."""
    from evovlm.runs.summary import summarise

    summary = summarise(run, top=top)
    if as_json:
        typer.echo(json.dumps(summary.as_json(), ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    _print_head(console, summary)
    _print_candidates(console, summary)
    _print_winner(console, summary)
    _print_curve(console, summary)


def _print_head(console: "Console", summary: "RunSummary") -> None:
    failed = f", {len(summary.failures)} failed" if summary.failures else ""
    console.print(
        f"{summary.folder}: {summary.candidates} candidates in {len(summary.best_by_generation)} generations{failed}, "
        f"{summary.tokens} generated tokens, {summary.seconds:.0f} s",
        markup=False,
        highlight=False,
    )


def _print_candidates(console: "Console", summary: "RunSummary") -> None:
    from rich.table import Table

    from evovlm.cli.rendering import percent

    table = Table(title="best candidates, search split", title_justify="left")
    table.add_column("candidate", justify="right")
    table.add_column("recipe")
    table.add_column("fitness", justify="right")
    names = sorted({name for row in summary.top for name in row.scores})
    for name in names:
        table.add_column(f"{name} (ungated, Japanese)", justify="right")
    for row in summary.top:
        cells = [
            f"{percent(score.score)} ({percent(score.ungated)}, {100 * score.japanese:.0f} %)"
            for score in (row.scores[name] for name in names)
        ]
        table.add_row(str(row.index), row.recipe_id, percent(row.fitness), *cells)
    console.print(table)


def _print_winner(console: "Console", summary: "RunSummary") -> None:
    from rich.table import Table

    table = Table(title="numbers of the best recipe", title_justify="left")
    table.add_column("source")
    table.add_column("parameter")
    for unit in summary.units:
        table.add_column(unit, justify="right")
    for source, parameter, values in summary.numbers:
        table.add_row(source, parameter, *(f"{value:.2f}" for value in values))
    console.print(table)


def _print_curve(console: "Console", summary: "RunSummary") -> None:
    from evovlm.cli.rendering import percent, spark_line

    best, mean = summary.best_by_generation, summary.mean_by_generation
    if not best:
        return
    low, high = min(mean), max(best)
    for name, values in (("best so far", best), ("mean", mean)):
        line = spark_line(values, low=low, high=high)
        console.print(f"{name:>12} {line} {percent(values[0])} -> {percent(values[-1])}", markup=False, highlight=False)
    for index, reason in summary.failures[:5]:
        console.print(f"candidate {index} failed: {reason}", markup=False, highlight=False)
