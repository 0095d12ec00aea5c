"""`evovlm demo`: evolve a Japanese math LLM and a Japanese VLM from the embedded models."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import echo, json_text

if TYPE_CHECKING:
    from rich.console import Console

    from evovlm.cli.progress import SearchProgress, Waiting
    from evovlm.runs.demo import AnsweredSample, PipelineResult
    from evovlm.runs.scores.standings import Standing


def demo(
    full: Annotated[
        bool, typer.Option("--full", help="Search with the paper's settings: two to three times as long.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only try whether everything runs: too few candidates to evolve.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="The seed of the searches.")] = 0,
    out: Annotated[Path, typer.Option("--out", help="The folder for the runs and models.")] = Path("demo"),
    only: Annotated[str | None, typer.Option("--only", help="Run only one of the two: evollm or evovlm.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Evolve a Japanese math LLM and a Japanese VLM, in minutes. The models are embedded; any machine will do."""
    from evovlm.cli.progress import SearchProgress, Waiting, stderr_console
    from evovlm.cli.signals import stopping
    from evovlm.errors import ConfigError
    from evovlm.runs.demo import PIPELINES, Size, run_pipeline

    if only is not None and only not in PIPELINES:
        raise ConfigError(f"--only {only}: choose {' or '.join(PIPELINES)}.")
    if full and quick:
        raise ConfigError("--full and --quick: choose one.")
    size = Size.FULL if full else Size.QUICK if quick else Size.USUAL
    console = stderr_console()
    began = time.monotonic()
    results: dict[str, PipelineResult] = {}
    displays: list[SearchProgress | Waiting] = []
    with stopping(), ExitStack() as stack:
        stack.callback(_close, displays)
        for pipeline in (each for each in PIPELINES.values() if only in (None, each.name)):
            console.print(pipeline.title, style="bold", highlight=False)

            def observe(title: str, name: str = pipeline.name) -> SearchProgress:
                _close(displays)
                display = SearchProgress(title=f"{name}, {title}")
                displays.append(display)
                return display

            def say(text: str, name: str = pipeline.name) -> None:
                _close(displays)
                console.print(f"{name}, {text}", highlight=False)
                displays.append(Waiting(f"{name}, {text}", console=console))

            displays.append(Waiting(f"{pipeline.name}: opening models and tasks", console=console))
            folder = out / pipeline.name
            result = run_pipeline(pipeline, out=folder, size=size, seed=seed, observe=observe, say=say)
            say("writing the page")
            _write_page(result)
            results[pipeline.name] = result
    if as_json:
        echo(json_text({name: result.as_json() for name, result in results.items()}))
        return
    from rich.console import Console

    for result in results.values():
        _print_result(Console(), result)
    _print_next(list(results.values()), seconds=time.monotonic() - began)


def _write_page(result: "PipelineResult") -> None:
    from evovlm.files import write_file
    from evovlm.report.page import run_page
    from evovlm.report.reading import read_run

    content = replace(read_run(result.run_folder), title=result.pipeline.title)
    write_file(result.page, run_page(content, language="en"))


def _close(displays: "list[SearchProgress | Waiting]") -> None:
    for display in displays:
        display.close()


def _print_result(console: "Console", result: "PipelineResult") -> None:
    from evovlm.cli.rendering import interval_text, percent
    from evovlm.cli.tables import plain_table, print_line
    from evovlm.runs.demo import ARTISTS, CULTURE
    from evovlm.tasks.task import absence_lines

    print_line(console, f"{result.pipeline.title} ({result.task}, {result.n_samples} report samples)")
    subsets = [name for name in (CULTURE, *ARTISTS) if name in result.winner.subsets]
    # A terminal has 80 columns.
    table = plain_table(gap=0 if subsets else 1)
    table.add_column("model")
    for heading in ("score", "95 % interval", "ungated", "Japanese"):
        table.add_column(heading, justify="right")
    for subset in subsets:
        table.add_column(subset, justify="right")
    for standing in result.standings:
        cells = [
            _label(standing, result),
            percent(standing.score),
            interval_text(*standing.interval),
            percent(standing.ungated),
            f"{100 * standing.japanese:.0f} %",
            *(percent(standing.subsets[subset]) for subset in subsets),
        ]
        table.add_row(*cells, style="bold" if standing is result.winner else None)
    console.print(table)
    console.print(
        f"Each search tried {result.candidates} candidates on the search split, where the evolved merge had "
        f"{percent(result.search_fitness)}; the table is the report split, which no search saw.",
        highlight=False,
    )
    for line in absence_lines(f"{result.task}, report split", result.absent):
        print_line(console, line)
    for example in result.examples:
        _print_example(console, example)
    console.print()


def _label(standing: "Standing", result: "PipelineResult") -> str:
    """Return the name of a model; on pictures, a text model answers inside the VLM."""
    if standing.role == "parent":
        whole = result.pipeline.name == "evovlm" and standing.name != "vlm"
        return f"{standing.name} inside the VLM" if whole else standing.name
    return {"winner": "evolved merge", "random": "random search"}.get(standing.name, "equal-weights merge")


def _print_example(console: "Console", example: "AnsweredSample") -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    # Text, not str: a model's answer is shown as it is and not read as markup.
    grid.add_row("question", Text(f"{example.question}  ({example.reference})"))
    for name, answer in example.answers.items():
        shown = "".join(char if char.isprintable() else " " for char in answer)
        grid.add_row(name, Text(shown or "(nothing)"), style="bold" if name == "evolved" else "dim")
    console.print(grid)


def _print_next(results: "list[PipelineResult]", *, seconds: float) -> None:
    echo(f"{seconds:.0f} s. Scores are x 100. Everything is in:")
    for result in results:
        echo(f"  {result.run_folder}   the search: journal.jsonl, best.yaml (the recipe), config.yaml")
        echo(f"  {result.model_folder}   the merged model, an ordinary checkpoint")
    first = results[0]
    echo("\nNext:")
    echo(f"  evovlm show {first.run_folder}")
    echo(f"  evovlm score {first.model_folder} --task {first.task}")
    echo(f"  evovlm merge {first.run_folder / 'best.yaml'} --out my-model    # after changing its numbers")
    echo(f"  evovlm evolve {first.run_folder / 'config.yaml'} --out my-run    # your own search: edit a copy")
    echo("\nEvery answer, the search and the recipe on one page:")
    for result in results:
        echo(f"  {result.page}")
