"""`evovlm evolve CONFIG --out RUN`: search for the best recipe."""

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.allow_code import AllowCode, announce_allowed
from evovlm.cli.engine import EngineOption, TensorParallelOption
from evovlm.cli.rendering import echo, from_here
from evovlm.cli.task_options import arguments_of

if TYPE_CHECKING:
    from evovlm.recipes.kinds import Recipe
    from evovlm.report.choice_page import ChoicePage
    from evovlm.runs.config.hybrid import HybridConfig
    from evovlm.runs.config.search import SearchConfig
    from evovlm.runs.searching.evolve import RunResult


Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        help="Another model in place of a source of the config, such as a converted copy; may be repeated.",
    ),
]


def evolve(
    config: Annotated[Path, typer.Argument(help="The config of a search (YAML); configs/ holds examples.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Write the winner's model to this folder.")
    ] = None,
    source: Sources = None,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="Also log the progress to tensorboard or wandb; may be repeated.")
    ] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate what the run would cost, from a short calibration.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, max=1_000, help="The number of models evaluated at a time; does not change the result."
        ),
    ] = None,
    engine: EngineOption = None,
    tensor_parallel: TensorParallelOption = None,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=0,
            max=65_535,
            help="With objective.human: the port of the page on which you choose; 0: any free one.",
        ),
    ] = 0,
    allow_code: AllowCode = False,
) -> None:
    """Search for the recipe that makes the best merged model."""
    from evovlm.cli.progress import Waiting
    from evovlm.cli.signals import stopping
    from evovlm.files import refuse_existing

    with Waiting(f"reading {config}"):
        from evovlm.runs.config.hybrid import load_search, parse_sources

        loaded = load_search(config, sources=parse_sources(source or []))
        loaded = loaded.with_engine(engine, tensor_parallel=tensor_parallel)
        loaded = loaded.with_workers(workers).logged(*(log or ()))
    if dry:
        from evovlm.cli.dry_run import dry_run

        dry_run(loaded, relative_to=config.parent, as_json=as_json)
        return
    if checkpoint is not None:
        refuse_existing(checkpoint)
    with stopping(flag="--resume"):
        result = _search(loaded, config=config, out=out, resume=resume, port=port, allow_code=allow_code)
        if checkpoint is not None:
            _write_winner(result.recipe, checkpoint)
    if as_json:
        echo(json.dumps({**result.as_json(), "checkpoint": str(checkpoint) if checkpoint else None}), whole=True)
        return
    _print(result, as_given=out)
    _print_next(loaded, result, out=out, checkpoint=checkpoint, relative_to=config.parent)


def _write_winner(recipe: "Recipe", checkpoint: Path) -> None:
    from evovlm.cli.progress import WriteProgress
    from evovlm.cli.rendering import result_text
    from evovlm.evaluation.loadable import check_loads
    from evovlm.merging.before.preflight import preflight_recipe
    from evovlm.merging.writer import write_checkpoint

    size = None if recipe.path is None else preflight_recipe(recipe).result
    if size is not None:
        # In parameter space the result is as large as its host.
        echo(f"the result: {result_text(size)}", err=True)
    with closing(WriteProgress(title=f"writing {checkpoint.name}")) as progress:
        write_checkpoint(recipe, checkpoint, check=check_loads, observer=progress)


def _search(
    loaded: "SearchConfig | HybridConfig", *, config: Path, out: Path, resume: bool, port: int, allow_code: bool
) -> "RunResult":
    """Run the search, or the two searches of a hybrid, each with its own display."""
    from evovlm.cli.progress import SearchProgress, Waiting
    from evovlm.errors import EvovlmError

    with Waiting(f"reading {config}"):
        from evovlm.runs.before.leaks import data_notes
        from evovlm.runs.searching.evolve import engine_notes, run_search
        from evovlm.tasks.catalogue import code_of_tasks

    resolved = loaded.resolved(relative_to=config.parent)
    stages = resolved.stages.values()
    # A problem of the data is one of the search, which reports it.
    with suppress(EvovlmError):
        for note in dict.fromkeys(note for stage in stages for note in data_notes(stage)):
            echo(f"note: {note}", err=True)
    with suppress(EvovlmError):
        for note in engine_notes(resolved, out=out):
            echo(f"note: {note}", err=True)
    if allow_code:
        announce_allowed(code_of_tasks(task.name for stage in stages for task in stage.tasks), allow_code=allow_code)
    shown: list[SearchProgress] = []
    warned: set[str] = set()

    def show(stage: str) -> SearchProgress:
        for display in shown:
            display.close()
        shown.append(SearchProgress(title=f"{config.stem} {stage}".strip(), warned=warned))
        return shown[-1]

    with ExitStack() as stack:
        person = None
        if any(stage.objective.human is not None for stage in stages):
            person = stack.enter_context(_served_page(port))
        try:
            return run_search(
                loaded,
                out=out,
                relative_to=config.parent,
                resume=resume,
                observe=show,
                person=person,
                allow_code=allow_code,
            )
        finally:
            for display in shown:
                display.close()


@contextmanager
def _served_page(port: int) -> "Iterator[ChoicePage]":
    """Serve the page on which a person chooses, and print its address."""
    from evovlm.report.choice_page import ChoicePage
    from evovlm.report.loopback import serving
    from evovlm.texts.languages import chosen_language, speaker

    language = chosen_language("")
    page = ChoicePage(language=language)
    with serving(page, port=port) as address:
        echo(speaker(language)("choose_address", address=address), err=True)
        yield page


def _print(result: "RunResult", *, as_given: Path) -> None:
    from evovlm.cli.rendering import percent
    from evovlm.cli.tables import thinking_lines

    failed = f", {result.failures} failed" if result.failures else ""
    echo(f"{result.winner} of {result.candidates} candidates{failed}: fitness {percent(result.fitness)} (search split)")
    for each in result.rescored:
        who = "the mean" if each.candidate is None else f"candidate {each.candidate}"
        seen = "" if each.search_fitness is None else f", after {percent(each.search_fitness)} in the search"
        echo(f"  scored again in full: {who}, {percent(each.fitness)}{seen}")
    for name, score in result.evaluation.scores.items():
        echo(f"  {name}: {percent(score.score)} (ungated {percent(score.ungated)}, Japanese {percent(score.japanese)})")
        for line in thinking_lines(score):
            echo(f"    {line}")
    from evovlm.cli.show_run import tie_line
    from evovlm.runs.run import Run

    if (tied := tie_line(Run.open(result.folder))) is not None:
        echo(f"{tied}.")
    for name, score in result.evaluation.scores.items():
        if score.low is not None:
            echo("\n  ".join([f"{name}: {score.low.lines[0]}", *score.low.lines[1:]]))
    if result.fitness < 0:
        echo("every candidate violates a constraint: this one violates them least.")
    if result.stopped_by not in (None, "candidates"):
        echo(f"ended by its budget of {result.stopped_by}.")
    if result.front:
        from rich.console import Console

        from evovlm.cli.tables import print_front

        print_front(Console(), result.front, goals=tuple(result.front[0].goals))
        echo(f"to take one: evovlm export {as_given} --pick CANDIDATE --out recipe.yaml")


def _print_next(
    loaded: "SearchConfig | HybridConfig",
    result: "RunResult",
    *,
    out: Path,
    checkpoint: Path | None,
    relative_to: Path,
) -> None:
    echo("\nNext:")
    echo(f"  evovlm show {out}")
    folder = checkpoint or out / "model"
    if checkpoint is None:
        echo(f"  evovlm merge {result.recipe_file} --out {folder}")
    first = next(iter(loaded.stages.values()))
    commands = _score_commands(first.resolved(relative_to=relative_to), folder)
    for command in commands:
        echo(f"  {command}")
    # A page has answers only if there are tasks to report on.
    echo(f"  evovlm report {out}{' --score' if commands else ''}    # a page to look at")


def _score_commands(config: "SearchConfig", model: Path) -> list[str]:
    """Return the commands that score the winner on the tasks of the report."""
    from evovlm.runs.scores.contenders import report_tasks
    from evovlm.tasks.catalogue import get_task
    from evovlm.tasks.harness_name import is_harness_name
    from evovlm.tasks.metrics.judges import JUDGES

    commands = []
    for choice in report_tasks(config):
        name = from_here(choice.name)
        data = [] if choice.data is None else ["--data", f"{name}={choice.data}"]
        limit = [] if choice.limit is None else ["--limit", str(choice.limit)]
        chosen = arguments_of(choice.settings)
        if choice.judge is not None and not is_harness_name(choice.name):
            judged = get_task(choice.name).scoring.metric in JUDGES
            named = {"--judge": choice.judge.model, "--judge-url": choice.judge.url} if judged else {}
            chosen = [*chosen, *(part for option, value in named.items() if value for part in (option, value))]
        commands.append(["evovlm", "score", str(model), "--task", name, *data, *limit, *chosen])
    return [shlex.join(command) for command in commands]
