"""`evovlm zoo`: the embedded models; `evovlm zoo build` makes them again."""

from pathlib import Path
from typing import Annotated

import typer

from evovlm.cli.help import DescribedCommand, example
from evovlm.cli.rendering import echo, echo_json

zoo = typer.Typer(
    name="zoo", help="List the embedded models, or train them again.", rich_markup_mode=None, epilog=example("zoo")
)


@zoo.callback(invoke_without_command=True)
def listing(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False
) -> None:
    """List the embedded models with their scores on the report splits."""
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from evovlm.zoo.catalogue import load_catalogue

    models = load_catalogue()
    if as_json:
        echo_json([asdict(model) for model in models])
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from evovlm.cli.rendering import percent
    from evovlm.cli.tables import plain_table

    console = Console()
    tasks = sorted({task for model in models for task in model.scores})
    table = plain_table("model", *tasks)
    for column in table.columns:
        column.no_wrap = True
    for model in models:
        scores = [percent(model.scores[task]) if task in model.scores else "-" for task in tasks]
        table.add_row(f"zoo:{model.name}", *scores)
    console.print(table)
    for model in models:
        console.print(f"zoo:{model.name}, {model.parameters / 1e6:.2f} M parameters", style="bold", highlight=False)
        console.print(Padding(Text(model.made_from), (0, 0, 0, 4)))


@zoo.command(cls=DescribedCommand, epilog="\b\nExample:\n  evovlm zoo build --out my-zoo")
def build(
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder to build in; default: the package's assets.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The seed of data and training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the folder as JSON.")] = False,
) -> None:
    """Train every embedded model again. It takes up to 90 minutes on 2 cores, without a GPU."""
    from evovlm.assets import asset_path
    from evovlm.cli.progress import Waiting, stderr_console

    with Waiting("loading torch"):
        from evovlm.zoo.training import build_zoo

    console = stderr_console()
    folder = out or asset_path("zoo")
    build_zoo(folder, seed=seed, report=lambda line: console.print(line, markup=False, highlight=False))
    if as_json:
        echo_json({"folder": str(folder)})
    else:
        echo(str(folder), whole=True)
