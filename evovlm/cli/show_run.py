"""What a run found, as `evovlm show` prints it."""

import itertools
import shlex
from collections.abc import Mapping, Sequence

from rich.console import Console

from evovlm.cli.rendering import counted, duration, percent, spark_line
from evovlm.cli.show_recipe import path_table
from evovlm.cli.tables import cell, plain_table, print_front, print_line, print_low, thinking_lines
from evovlm.evaluation.engines.table import BUILTIN_ENGINE
from evovlm.recipes.kinds import PS
from evovlm.runs.folder.entries import Entry
from evovlm.runs.run import Run

_FAILURES_SHOWN = 5
_WINNERS = {
    "best": "the best candidate",
    "mean": "the distribution's mean",
    "snapshot": "the mean that did best on the validation samples",
}


def run_document(run: Run, *, top: int) -> Mapping[str, object]:
    """Return what a run found as plain values, with its `top` candidates."""
    objective, path = run.objective, run.description.path
    best, mean = _curves(run)
    rescored = [each.as_json() for each in run.rescored]
    return {
        "folder": str(run.folder),
        "stage": run.stage_name,
        "batch": run.config.batch,
        "finished": run.finished,
        "winner": run.winner_kind,
        "mean_fitness": run.mean_fitness,
        "candidates": len(run.journal.candidates),
        "tokens": run.journal.tokens,
        "seconds": run.seconds,
        "top": [_candidate_row(run, entry) for entry in run.ranked[:top]],
        "units": list(run.description.units),
        "numbers": [
            {"source": each.source, "parameter": each.name, "values": list(each.values)}
            for each in run.description.numbers
        ],
        "chosen": dict(run.description.chosen),
        "path": path.canonical() if path else None,
        "is_host": run.description.is_host,
        "snapshots": list(run.snapshots.values()),
        "best_by_generation": best,
        "mean_by_generation": mean,
        "failures": [{"index": index, "reason": reason} for index, reason in run.failures],
        "stopped_by": run.stopped_by,
        "constraints": [str(each) for each in objective.constraints] if objective is not None else [],
        "infeasible": sum(bool(run.violated(entry)) for entry in run.ranked),
        "goals": list(run.goals),
        "front": [point.as_json() for point in run.front()],
        **({"rescored": rescored} if rescored else {}),
        **({} if run.journal.engine == BUILTIN_ENGINE else {"engine": str(run.journal.engine)}),
    }


def _candidate_row(run: Run, entry: Entry) -> Mapping[str, object]:
    scores = entry.evaluation.scores if entry.evaluation else {}
    return {
        "index": entry.index,
        "recipe_id": entry.recipe_id,
        "fitness": entry.evaluation.fitness if entry.evaluation else None,
        "scores": {name: score.figures() for name, score in scores.items()},
        "violated": [str(each) for each in run.violated(entry)],
    }


def _curves(run: Run) -> tuple[list[float], list[float]]:
    """Return the best fitness so far and the mean fitness after each generation that has one."""
    generations = [[each.evaluation.fitness for each in entries if each.evaluation] for entries in run.generations]
    known = [fitnesses for fitnesses in generations if fitnesses]
    best = list(itertools.accumulate((max(fitnesses) for fitnesses in known), max))
    return best, [sum(fitnesses) / len(fitnesses) for fitnesses in known]


def print_run(run: Run, *, top: int) -> None:
    """Print what the run found so far, with its `top` candidates."""
    console = Console()
    _print_head(console, run)
    if run.ranked:
        _print_candidates(console, run, run.ranked[:top])
        if run.goals:
            print_front(console, run.front(), goals=run.goals)
            print_line(console, f"to take one: evovlm export {run.folder} --pick CANDIDATE --out recipe.yaml")
        if run.description.path is not None:
            _print_path(console, run)
        else:
            _print_winner(console, run)
        _print_curve(console, run)
    for index, reason in run.failures[:_FAILURES_SHOWN]:
        print_line(console, f"candidate {index} failed: {reason}")
    if len(run.failures) > _FAILURES_SHOWN:
        print_line(console, f"and {len(run.failures) - _FAILURES_SHOWN} more (--json lists all)")


def _print_head(console: Console, run: Run) -> None:
    ended = f", ended by its budget of {run.stopped_by}" if run.stopped_by not in (None, "candidates") else ""
    state = f"finished{ended}" if run.finished else "not finished"
    failed = f", {len(run.failures)} failed" if run.failures else ""
    generations = counted(sum(any(each.evaluation for each in entries) for entries in run.generations), "generation")
    n_candidates = len(run.journal.candidates)
    engine = "" if run.journal.engine == BUILTIN_ENGINE else f", answers by {run.journal.engine}"
    print_line(console, f"{run.folder} ({state}{engine})")
    if run.stage_name == PS:
        print_line(console, "the first stage (ps) of two:")
    elif run.stage_name is not None:
        first = shlex.join(["evovlm", "show", str(run.folder / PS)])
        print_line(console, f"the second stage (path) of two; the first: {first}")
    print_line(
        console,
        f"{n_candidates} candidates in {generations}{failed}, "
        f"{run.journal.tokens} generated tokens, {duration(run.seconds)}",
    )
    if run.objective is not None and run.objective.constraints:
        infeasible = sum(bool(run.violated(entry)) for entry in run.ranked)
        print_line(
            console,
            f"constraints: {'; '.join(map(str, run.objective.constraints))}\n{infeasible} of {n_candidates} candidates "
            "violate one; their fitness is minus the amount by which they do",
        )
    for each in run.rescored:
        if each.search_fitness is not None:
            print_line(
                console,
                f"candidate {each.candidate}, scored again in full: fitness {percent(each.fitness)} "
                f"({percent(each.search_fitness)} in the search)",
            )
    if run.mean_fitness is not None:
        print_line(console, f"the distribution's mean: fitness {percent(run.mean_fitness)}")


def _print_candidates(console: Console, run: Run, shown: Sequence[Entry]) -> None:
    batches = "" if run.config.batch is None else f", each generation on {run.config.batch} new samples"
    print_line(console, f"best candidates, search split{batches}")
    rows = [(entry, entry.evaluation) for entry in shown if entry.evaluation]
    table = plain_table()
    table.add_column("candidate", justify="right")
    table.add_column("recipe")
    table.add_column("fitness", justify="right")
    names = sorted({name for _, evaluation in rows for name in evaluation.scores})
    in_part = any(score.rows is not None for _, evaluation in rows for score in evaluation.scores.values())
    if in_part:
        table.add_column("samples", justify="right")
    for name in names:
        table.add_column(cell(f"{name} (ungated, Japanese)"), justify="right")
    for entry, evaluation in rows:
        cells = [
            f"{percent(score.score)} ({percent(score.ungated)}, {100 * score.japanese:.0f} %)"
            for score in (evaluation.scores[name] for name in names)
        ]
        samples = [str(evaluation.n_samples)] if in_part else []
        table.add_row(str(entry.index), entry.recipe_id, percent(evaluation.fitness), *samples, *cells)
    console.print(table)
    if (tied := tie_line(run)) is not None:
        print_line(console, tied)
    # The best candidate is the first one.
    for name, score in rows[0][1].scores.items() if rows else ():
        for line in thinking_lines(score):
            print_line(console, f"{name}: {line}")
        print_low(console, score.low, of=name)
    for entry, _ in rows:
        if violated := run.violated(entry):
            print_line(console, f"candidate {entry.index} violates: {'; '.join(map(str, violated))}")


def tie_line(run: Run) -> str | None:
    """Return how many candidates share the highest fitness, and which of them is taken; None where it is one."""
    fitnesses = [entry.evaluation.fitness for entry in run.ranked if entry.evaluation]
    n_best = fitnesses.count(fitnesses[0]) if fitnesses else 0
    if n_best < 2 or run.winner_entry is not run.ranked[0]:
        return None
    return f"{n_best} candidates have the highest fitness; the earliest of them, {run.ranked[0].index}, is taken"


def _print_winner(console: Console, run: Run) -> None:
    print_line(console, f"the numbers of {_WINNERS[run.winner_kind]}")
    found = run.description
    table = plain_table()
    # One row per unit: a model has dozens of blocks, and a terminal has 80 columns.
    by_unit = len(found.units) > 1
    table.add_column("unit" if by_unit else "source")
    if by_unit:
        for each in found.numbers:
            table.add_column("\n".join([each.source, *each.name.split(".")]), justify="right")
        for index, unit in enumerate(found.units):
            table.add_row(unit, *(_number(each.values[index]) for each in found.numbers))
    else:
        for parameter in dict.fromkeys(each.name for each in found.numbers):
            table.add_column(parameter, justify="right")
        for source in dict.fromkeys(each.source for each in found.numbers):
            table.add_row(source, *(_number(each.values[0]) for each in found.numbers if each.source == source))
    console.print(table)
    for name, option in found.chosen.items():
        print_line(console, f"{name}: {option}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _print_path(console: Console, run: Run) -> None:
    if run.description.path is not None:
        same = ", the unchanged host" if run.description.is_host else ""
        print_line(console, f"{_WINNERS[run.winner_kind]}: a path of {len(run.description.path)} hops{same}")
        console.print(path_table(run.description.path))


def _print_curve(console: Console, run: Run) -> None:
    best, mean = _curves(run)
    snapshots = list(run.snapshots.values())
    low, high = min([*mean, *snapshots]), max([*best, *snapshots])
    print_line(console, f"by generation, on a scale from {percent(low)} to {percent(high)}")
    for name, values in (("best so far", best), ("mean", mean), ("validation", snapshots)):
        if not values:
            continue
        line = spark_line(values, low=low, high=high)
        print_line(console, f"{name:>12} {line} {percent(values[0])} -> {percent(values[-1])}")
