"""A run's Pareto front as a table, for every command that shows one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from evovlm.cli.rendering import percent

if TYPE_CHECKING:
    from evovlm.runs.front import FrontPoint


def front_table(front: Sequence["FrontPoint"], *, goals: Sequence[str]) -> Table:
    """Return a Pareto front as a table, one row a candidate, one column a goal."""
    table = Table(title=f"Pareto front, {len(front)} candidates, search split", title_justify="left")
    table.add_column("candidate", justify="right")
    table.add_column("recipe")
    for goal in goals:
        table.add_column(goal, justify="right")
    for point in front:
        table.add_row(str(point.entry.index), point.entry.recipe_id, *(percent(point.goals[goal]) for goal in goals))
    return table
