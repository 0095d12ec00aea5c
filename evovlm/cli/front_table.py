"""A run's Pareto front as a table, for every command that shows one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from evovlm.cli.rendering import percent
from evovlm.cli.tables import plain_table, print_line

if TYPE_CHECKING:
    from evovlm.runs.run import FrontPoint


def print_front(console: Console, front: Sequence["FrontPoint"], *, goals: Sequence[str]) -> None:
    """Print a Pareto front as a table, one row a candidate, one column a goal."""
    print_line(console, f"Pareto front, {len(front)} candidates, search split")
    table = plain_table()
    table.add_column("candidate", justify="right")
    table.add_column("recipe")
    for goal in goals:
        table.add_column(goal, justify="right")
    for point in front:
        table.add_row(str(point.entry.index), point.entry.recipe_id, *(percent(point.goals[goal]) for goal in goals))
    console.print(table)
