"""`evovlm methods`: the merge methods there are."""

import json
from typing import Annotated

import typer


def methods(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the merge methods, what each takes, and where it is from."""
    from evovlm.merging.methods import METHODS

    rows = [
        {
            "name": method.name,
            "summary": method.summary,
            "needs_base": method.needs_base,
            "parameters": list(method.parameters),
            "settings": sorted(name.rstrip("_") for name in method.settings),
            "normalize": method.normalize,
            "paper": method.paper,
        }
        for method in METHODS.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("method", no_wrap=True)
    for heading in ("what it does", "base", "parameters", "settings", "paper"):
        table.add_column(heading, overflow="fold")
    for method in METHODS.values():
        default = f"normalize ({str(method.normalize).lower()})"
        settings = [default if name == "normalize" else name.rstrip("_") for name in sorted(method.settings)]
        table.add_row(
            method.name,
            method.summary,
            "needed" if method.needs_base else "-",
            ", ".join(method.parameters),
            ", ".join(settings),
            method.paper,
        )
    Console().print(table)
