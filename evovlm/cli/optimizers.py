"""`evovlm optimizers`: list the optimizers."""

import inspect
from typing import Annotated

import typer

from evovlm.cli.rendering import echo_json


def optimizers(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the optimizers. Each with what it is good for, and whether it takes several goals."""
    from evovlm.search.catalogue import OPTIMIZERS

    rows: list[dict[str, str | bool]] = [
        {
            "name": name,
            "summary": (inspect.getdoc(optimizer) or "").splitlines()[0],
            "purpose": optimizer.purpose,
            "takes_goals": optimizer.takes_goals,
        }
        for name, optimizer in OPTIMIZERS.items()
    ]
    if as_json:
        echo_json(rows)
        return
    from rich.console import Console

    from evovlm.cli.tables import plain_table

    table = plain_table("optimizer", "what it does", "good for", "several goals", apart=True)
    for row in rows:
        table.add_row(*("yes" if cell is True else "" if cell is False else str(cell) for cell in row.values()))
    Console().print(table)
