"""`evovlm evolve CONFIG --out RUN`: search for the best recipe."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer


def evolve(
    config: Annotated[Path, typer.Argument(help="A search (YAML); configs/ holds examples.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Write the winner as a model there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search for the recipe that makes the best merged model."""
    from evovlm.cli.rendering import INTERRUPTED, SearchProgress, percent
    from evovlm.errors import OutputExists
    from evovlm.merging.writer import write_checkpoint
    from evovlm.runs.config import load_config
    from evovlm.runs.evolve import evolve as run_search

    loaded = load_config(config)
    if checkpoint is not None and checkpoint.exists():
        raise OutputExists(f"{checkpoint} exists already and is not overwritten. Name another folder.")
    progress = SearchProgress(title=config.stem)
    try:
        result = run_search(loaded, out=out, relative_to=config.parent, resume=resume, observer=progress)
    except KeyboardInterrupt:
        progress.close()
        again = ["evovlm", "evolve", str(config), "--out", str(out), "--resume"]
        again += ["--checkpoint", str(checkpoint)] if checkpoint is not None else []
        again += ["--json"] if as_json else []
        typer.echo(f"\nstopped; nothing is lost. To go on:\n    {shlex.join(again)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        progress.close()
    if checkpoint is not None:
        write_checkpoint(result.recipe, checkpoint)
    if as_json:
        typer.echo(json.dumps({**result.as_json(), "checkpoint": str(checkpoint) if checkpoint else None}))
        return
    recipe = result.recipe_file
    failed = f", {result.failures} failed" if result.failures else ""
    typer.echo(
        f"{result.winner} of {result.candidates} candidates{failed}: fitness {percent(result.fitness)} (search split)"
    )
    for name, score in result.evaluation.scores.items():
        typer.echo(
            f"  {name}: {percent(score.score)} (ungated {percent(score.ungated)}, Japanese {percent(score.japanese)})"
        )
    typer.echo("\nNext:")
    typer.echo(f"  evovlm show {out}")
    folder = checkpoint or out / "model"
    if checkpoint is None:
        typer.echo(f"  evovlm merge {recipe} --out {folder}")
    for task in loaded.resolved(relative_to=config.parent).tasks:
        typer.echo(f"  evovlm score {folder} --task {task.name}")
