"""`evovlm evolve CONFIG --out RUN`: search for the best recipe."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evovlm.runs.config import EvolveConfig
    from evovlm.runs.evolve import RunResult
    from evovlm.runs.hybrid_config import HybridConfig
    from evovlm.runs.path_config import PathConfig


def evolve(
    config: Annotated[Path, typer.Argument(help="A search (YAML); configs/ holds examples.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is there.")] = False,
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint", help="Write the winner as a model there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search for the recipe that makes the best merged model."""
    from evovlm.cli.rendering import INTERRUPTED
    from evovlm.errors import OutputExists
    from evovlm.merging.writer import write_checkpoint
    from evovlm.runs.hybrid_config import HybridConfig, load_search

    loaded = load_search(config)
    if checkpoint is not None and checkpoint.exists():
        raise OutputExists(f"{checkpoint} exists already and is not overwritten. Name another folder.")
    try:
        result = _search(loaded, config=config, out=out, resume=resume)
    except KeyboardInterrupt:
        again = ["evovlm", "evolve", str(config), "--out", str(out), "--resume"]
        again += ["--checkpoint", str(checkpoint)] if checkpoint is not None else []
        again += ["--json"] if as_json else []
        typer.echo(f"\nstopped; nothing is lost. To go on:\n    {shlex.join(again)}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if checkpoint is not None:
        write_checkpoint(result.recipe, checkpoint)
    if as_json:
        typer.echo(json.dumps({**result.as_json(), "checkpoint": str(checkpoint) if checkpoint else None}))
        return
    _print(result)
    typer.echo("\nNext:")
    typer.echo(f"  evovlm show {out}")
    folder = checkpoint or out / "model"
    if checkpoint is None:
        typer.echo(f"  evovlm merge {result.recipe_file} --out {folder}")
    first = loaded.ps if isinstance(loaded, HybridConfig) else loaded
    for command in _score_commands(first.resolved(relative_to=config.parent), folder):
        typer.echo(f"  {command}")


def _search(
    loaded: "EvolveConfig | PathConfig | HybridConfig", *, config: Path, out: Path, resume: bool
) -> "RunResult":
    """Run the search, or the two of a hybrid, each with a display of its own."""
    from evovlm.cli.rendering import SearchProgress
    from evovlm.runs.evolve import evolve as run_search
    from evovlm.runs.hybrid import evolve_hybrid
    from evovlm.runs.hybrid_config import HybridConfig

    shown: list[SearchProgress] = []

    def show(stage: str) -> SearchProgress:
        for display in shown:
            display.close()
        shown.append(SearchProgress(title=f"{config.stem} {stage}".strip()))
        return shown[-1]

    try:
        if isinstance(loaded, HybridConfig):
            return evolve_hybrid(loaded, out=out, relative_to=config.parent, resume=resume, observe=show)
        return run_search(loaded, out=out, relative_to=config.parent, resume=resume, observer=show(""))
    finally:
        for display in shown:
            display.close()


def _print(result: "RunResult") -> None:
    from evovlm.cli.rendering import percent

    failed = f", {result.failures} failed" if result.failures else ""
    typer.echo(
        f"{result.winner} of {result.candidates} candidates{failed}: fitness {percent(result.fitness)} (search split)"
    )
    for each in result.rescored:
        who = "the mean" if each.candidate is None else f"candidate {each.candidate}"
        seen = "" if each.search_fitness is None else f", after {percent(each.search_fitness)} in the search"
        typer.echo(f"  scored again in full: {who}, {percent(each.fitness)}{seen}")
    for name, score in result.evaluation.scores.items():
        typer.echo(
            f"  {name}: {percent(score.score)} (ungated {percent(score.ungated)}, Japanese {percent(score.japanese)})"
        )


def _score_commands(config: "EvolveConfig | PathConfig", model: Path) -> list[str]:
    """Return how the winner is scored on what it is reported on: `report:`, else the searched tasks' own."""
    from evovlm.tasks.catalogue import get_task
    from evovlm.tasks.harness_name import is_harness_name
    from evovlm.tasks.task import Split

    commands = []
    for section in config.report or config.tasks:
        if is_harness_name(section.name):
            commands.append(["evovlm", "score", str(model), "--task", section.name])
        elif Split.REPORT in get_task(section.name).splits:
            # Where a search has its samples from is no place to take those of a report from.
            data = ["--data", f"{section.name}={section.data}"] if config.report and section.data is not None else []
            commands.append(["evovlm", "score", str(model), "--task", section.name, *data])
    return [shlex.join(command) for command in commands]
