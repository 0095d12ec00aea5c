"""`evovlm show RUN-or-RECIPE`: what a run found so far, or what a recipe says."""

from pathlib import Path
from typing import Annotated

import typer

from evovlm.cli.rendering import echo_json


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder (finished or in progress), or a recipe (YAML).")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many candidates to list.")] = 5,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Draw the path of a recipe or a run's winner into this new file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show what a run found so far, or what a recipe says.

    A run: its best candidates, the winner's numbers, how the search went. A recipe's path: hop by hop.
    """
    if run.is_file():
        from evovlm.cli.show_recipe import show_recipe

        show_recipe(run, svg=svg, as_json=as_json)
        return
    from evovlm.cli.progress import Waiting

    with Waiting(f"reading {run}"):
        from evovlm.cli.show_recipe import write_path
        from evovlm.cli.show_run import print_run, run_document
        from evovlm.runs.journal_check import check_scores
        from evovlm.runs.run import Run

        found = Run.open(run)
        found.check_begun()
    if svg is not None:
        write_path(found.description.path, svg, of=run)
    if found.objective is not None:
        check_scores(found.journal, found.objective)
    if as_json:
        echo_json(run_document(found, top=top))
    else:
        print_run(found, top=top)
