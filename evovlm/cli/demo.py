"""`evovlm demo`: evolve a Japanese math LLM and a Japanese VLM from the embedded models."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.language import Language
from evovlm.cli.rendering import echo, echo_json
from evovlm.texts.languages import Phrase, Say, speaker

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
    lang: Language = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Evolve a Japanese math LLM and a Japanese VLM, in minutes. The models are embedded; any machine will do."""
    from evovlm.cli.progress import SearchProgress, Waiting, stderr_console
    from evovlm.cli.signals import stopping
    from evovlm.errors import ConfigError

    said = speaker(lang)
    with Waiting(said("progress_loading")):
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
    warned: set[str] = set()
    with stopping(), ExitStack() as stack:
        stack.callback(_close, displays)
        for pipeline in (each for each in PIPELINES.values() if only in (None, each.name)):
            console.print(said(f"demo_{pipeline.name}"), style="bold", highlight=False)

            def observe(title: Phrase, name: str = pipeline.name) -> SearchProgress:
                _close(displays)
                display = SearchProgress(title=said("comma").join([name, title.said(said)]), say=said, warned=warned)
                displays.append(display)
                return display

            def say(text: Phrase, name: str = pipeline.name) -> None:
                _close(displays)
                line = said("comma").join([name, text.said(said)])
                console.print(line, highlight=False)
                displays.append(Waiting(line, console=console))

            displays.append(Waiting(said("progress_opening", title=pipeline.name), console=console))
            folder = out / pipeline.name
            result = run_pipeline(pipeline, out=folder, size=size, seed=seed, observe=observe, say=say)
            say(Phrase("demo_writing", {}))
            _write_page(result, language=lang)
            results[pipeline.name] = result
    if as_json:
        echo_json({name: result.as_json() for name, result in results.items()})
        return
    from rich.console import Console

    for result in results.values():
        _print_result(Console(), result, said)
    _print_next(list(results.values()), said, seconds=time.monotonic() - began)


def _write_page(result: "PipelineResult", *, language: str) -> None:
    from evovlm.files import write_file
    from evovlm.report.page import run_page
    from evovlm.report.reading import read_run

    content = replace(read_run(result.run_folder), title=speaker(language)(f"demo_{result.pipeline.name}"))
    write_file(result.page, run_page(content, language=language))


def _close(displays: "list[SearchProgress | Waiting]") -> None:
    for display in displays:
        display.close()


def _print_result(console: "Console", result: "PipelineResult", say: Say) -> None:
    from evovlm.cli.rendering import interval_text, percent
    from evovlm.cli.tables import plain_table, print_line
    from evovlm.runs.demo import ARTISTS, CULTURE

    title = say(f"demo_{result.pipeline.name}")
    print_line(console, say("demo_table", title=title, task=result.task, n=result.n_samples))
    subsets = [name for name in (CULTURE, *ARTISTS) if name in result.winner.subsets]
    # A terminal has 80 columns.
    table = plain_table(gap=0 if subsets else 1)
    table.add_column(say("model"))
    for key in ("score", "interval", "ungated", "japanese"):
        table.add_column(say(key), justify="right")
    for subset in subsets:
        table.add_column(subset, justify="right")
    for standing in result.standings:
        cells = [
            _label(standing, result, say),
            percent(standing.score),
            interval_text(*standing.interval),
            percent(standing.ungated),
            f"{100 * standing.japanese:.0f} %",
            *(percent(standing.subsets[subset]) for subset in subsets),
        ]
        table.add_row(*cells, style="bold" if standing is result.winner else None)
    console.print(table)
    console.print(
        say("demo_search", n=result.candidates, fitness=percent(result.search_fitness)),
        highlight=False,
    )
    for reason, n in result.absent.items():
        print_line(console, say("absent", n=n, reason=reason))
    for example in result.examples:
        _print_example(console, example, say)
    console.print()


def _label(standing: "Standing", result: "PipelineResult", say: Say) -> str:
    """Return the name of a model; on pictures, a text model answers inside the VLM."""
    if standing.role == "parent":
        whole = result.pipeline.name == "evovlm" and standing.name != "vlm"
        return say("demo_inside", name=standing.name) if whole else standing.name
    return say(f"demo_{standing.name}")


def _print_example(console: "Console", example: "AnsweredSample", say: Say) -> None:
    from rich.table import Table
    from rich.text import Text

    from evovlm.runs.demo import EVOLVED

    grid = Table(box=None, show_header=False, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    # Text, not str: a model's answer is shown as it is and not read as markup.
    grid.add_row(say("question"), Text(f"{example.question}  ({example.reference})"))
    for name, answer in example.answers.items():
        shown = "".join(char if char.isprintable() else " " for char in answer)
        is_winner = name == EVOLVED
        label = say("winner") if is_winner else name
        grid.add_row(label, Text(shown or say("no_answer")), style="bold" if is_winner else "dim")
    console.print(grid)


def _print_next(results: "list[PipelineResult]", say: Say, *, seconds: float) -> None:
    echo(say("demo_time", seconds=f"{seconds:.0f}"))
    for result in results:
        echo(f"  {result.run_folder}   {say('demo_run')}")
        echo(f"  {result.model_folder}   {say('demo_model')}")
    first = results[0]
    echo(f"\n{say('next')}")
    echo(f"  evovlm show {first.run_folder}")
    echo(f"  evovlm score {first.model_folder} --task {first.task}")
    echo(f"  # {say('demo_merge')}")
    echo(f"  evovlm merge {first.run_folder / 'best.yaml'} --out my-model")
    echo(f"  # {say('demo_evolve')}")
    echo(f"  evovlm evolve {first.run_folder / 'config.yaml'} --out my-run")
    echo(f"\n{say('demo_pages')}")
    for result in results:
        echo(f"  {result.page}")
