"""`evovlm show RUN-or-RECIPE`: what a run found so far, or what a recipe says."""

import json
from pathlib import Path
from typing import Annotated

import typer


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder (the run may still be going on), or a recipe (YAML).")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many candidates to list.")] = 5,
    svg: Annotated[Path | None, typer.Option("--svg", help="The new file to draw a recipe's path into.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show a run (its best candidates, the winner's numbers, how the search went) or a recipe (a path hop by hop)."""
    if run.is_file() or svg is not None:
        from evovlm.cli.show_recipe import show_recipe

        show_recipe(run, svg=svg, as_json=as_json)
        return
    from evovlm.runs.summary import summarise

    summary = summarise(run, top=top)
    if as_json:
        typer.echo(json.dumps(summary.as_json(), ensure_ascii=False))
        return
    from evovlm.cli.show_run import print_run

    print_run(summary)
