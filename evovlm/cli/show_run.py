"""What a run found, as `evovlm show` prints it."""

import shlex

from rich.console import Console

from evovlm.cli.front_table import print_front
from evovlm.cli.rendering import counted, duration, percent, spark_line
from evovlm.cli.show_recipe import path_table
from evovlm.cli.tables import plain_table, print_line
from evovlm.runs.summary import RunSummary

_FAILURES_SHOWN = 5
_WINNERS = {
    "best": "the best candidate",
    "mean": "the distribution's mean",
    "snapshot": "the mean that did best on the validation samples",
}


def print_run(summary: RunSummary) -> None:
    """Print what the run found so far."""
    console = Console()
    _print_head(console, summary)
    if summary.top:
        _print_candidates(console, summary)
        if summary.goals:
            _print_front(console, summary)
        if summary.path is not None:
            _print_path(console, summary)
        else:
            _print_winner(console, summary)
        _print_curve(console, summary)
    for index, reason in summary.failures[:_FAILURES_SHOWN]:
        print_line(console, f"candidate {index} failed: {reason}")
    if len(summary.failures) > _FAILURES_SHOWN:
        print_line(console, f"and {len(summary.failures) - _FAILURES_SHOWN} more (--json lists all)")


def _print_head(console: Console, summary: RunSummary) -> None:
    ended = f", ended by its budget of {summary.stopped_by}" if summary.stopped_by not in (None, "candidates") else ""
    state = f"finished{ended}" if summary.finished else "not finished"
    failed = f", {len(summary.failures)} failed" if summary.failures else ""
    generations = counted(len(summary.best_by_generation), "generation")
    print_line(console, f"{summary.folder} ({state})")
    if summary.stage == "ps":
        print_line(console, "the first stage (ps) of two:")
    elif summary.stage is not None:
        first = shlex.join(["evovlm", "show", str(summary.folder / "ps")])
        print_line(console, f"the second stage (path) of two; the first: {first}")
    print_line(
        console,
        f"{summary.candidates} candidates in {generations}{failed}, "
        f"{summary.tokens} generated tokens, {duration(summary.seconds)}",
    )
    if summary.constraints:
        print_line(
            console,
            f"constraints: {'; '.join(summary.constraints)}\n{summary.infeasible} of {summary.candidates} candidates "
            "break one; their fitness is minus what they miss",
        )
    for each in summary.rescored:
        if each.search_fitness is not None:
            print_line(
                console,
                f"candidate {each.candidate}, scored again in full: fitness {percent(each.fitness)} "
                f"({percent(each.search_fitness)} in the search)",
            )
    if summary.mean_fitness is not None:
        print_line(console, f"the distribution's mean: fitness {percent(summary.mean_fitness)}")


def _print_candidates(console: Console, summary: RunSummary) -> None:
    batches = "" if summary.batch is None else f", each generation on {summary.batch} other samples"
    print_line(console, f"best candidates, search split{batches}")
    table = plain_table()
    table.add_column("candidate", justify="right")
    table.add_column("recipe")
    table.add_column("fitness", justify="right")
    names = sorted({name for row in summary.top for name in row.scores})
    in_part = any(score.rows is not None for row in summary.top for score in row.scores.values())
    if in_part:
        table.add_column("samples", justify="right")
    for name in names:
        table.add_column(f"{name} (ungated, Japanese)", justify="right")
    for row in summary.top:
        cells = [
            f"{percent(score.score)} ({percent(score.ungated)}, {100 * score.japanese:.0f} %)"
            for score in (row.scores[name] for name in names)
        ]
        samples = [str(sum(score.n for score in row.scores.values()))] if in_part else []
        table.add_row(str(row.index), row.recipe_id, percent(row.fitness), *samples, *cells)
    console.print(table)
    for row in summary.top:
        if row.violated:
            print_line(console, f"candidate {row.index} breaks: {'; '.join(row.violated)}")


def _print_front(console: Console, summary: RunSummary) -> None:
    print_front(console, summary.front, goals=summary.goals)
    print_line(console, f"to take one: evovlm export {summary.folder} --pick CANDIDATE --out recipe.yaml")


def _print_winner(console: Console, summary: RunSummary) -> None:
    print_line(console, f"{_WINNERS[summary.winner]}, its numbers")
    table = plain_table()
    # One row a unit: a model has dozens of blocks, and a terminal has 80 columns.
    by_unit = len(summary.units) > 1
    parameters = list(dict.fromkeys(parameter for _, parameter, _ in summary.numbers))
    table.add_column("unit" if by_unit else "source")
    if by_unit:
        for source, parameter, _ in summary.numbers:
            table.add_column("\n".join([source, *parameter.split(".")]), justify="right")
        for index, unit in enumerate(summary.units):
            table.add_row(unit, *(_number(values[index]) for _, _, values in summary.numbers))
    else:
        for parameter in parameters:
            table.add_column(parameter, justify="right")
        for source in dict.fromkeys(source for source, _, _ in summary.numbers):
            table.add_row(source, *(_number(values[0]) for name, _, values in summary.numbers if name == source))
    console.print(table)
    for name, option in summary.chosen.items():
        print_line(console, f"{name}: {option}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _print_path(console: Console, summary: RunSummary) -> None:
    if summary.path is not None:
        same = ", the host as it is" if summary.is_host else ""
        print_line(console, f"{_WINNERS[summary.winner]}: a path of {len(summary.path)} hops{same}")
        console.print(path_table(summary.path))


def _print_curve(console: Console, summary: RunSummary) -> None:
    best, mean = summary.best_by_generation, summary.mean_by_generation
    snapshots = summary.snapshots
    low, high = min([*mean, *snapshots]), max([*best, *snapshots])
    print_line(console, f"by generation, from {percent(low)} to {percent(high)}")
    for name, values in (("best so far", best), ("mean", mean), ("validation", snapshots)):
        if not values:
            continue
        line = spark_line(values, low=low, high=high)
        print_line(console, f"{name:>12} {line} {percent(values[0])} -> {percent(values[-1])}")
