"""`evovlm tasks`: the tasks there are."""

import json
from typing import Annotated

import typer


def tasks(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the tasks: what they ask, which splits they have and how answers are scored."""
    from evovlm.tasks.catalogue import TASKS

    rows = [
        {
            "name": task.name,
            "description": task.description,
            "splits": sorted(task.splits, reverse=True),
            "needs_images": task.needs_images,
            "metric": str(task.scoring),
            "prompt": task.prompt,
            "max_new_tokens": task.decoding.max_new_tokens,
            "beams": task.decoding.beams,
        }
        for task in TASKS.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("task", "splits", "metric"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it asks")
    for task in TASKS.values():
        table.add_row(task.name, ", ".join(sorted(task.splits, reverse=True)), str(task.scoring), task.description)
    Console().print(table)
