"""`evovlm watch RUN`: a run in progress, on a page that reloads itself and in the terminal."""

import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.language import Language
from evovlm.cli.rendering import echo

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evovlm.report.content import RunContent, Stage


def watch(
    run: Annotated[Path, typer.Argument(help="The folder of a run in progress.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page's file [default: RUN/report.html].")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    lang: Language = "",
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the page on 127.0.0.1, for a browser here or behind an SSH tunnel."),
    ] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="The port of --serve; 0: any free one.")] = 0,
    every: Annotated[int, typer.Option("--every", min=1, max=86_400, help="The seconds between two updates.")] = 5,
) -> None:
    """Follow a run until it ends. Its page reloads itself, the terminal shows its progress.

    Ctrl-C stops watching; the run itself continues.
    """
    from rich.console import Console
    from rich.live import Live

    from evovlm.cli.progress import Waiting

    with Waiting("loading the libraries that draw"):
        from evovlm.report.files import check_new
        from evovlm.report.loopback import serving
        from evovlm.report.watching import ServedFile, watch_run
        from evovlm.runs.folder.layout import PAGE_FILE

    if out is not None:
        check_new(out)
    page = out or run / PAGE_FILE
    console = Console()
    to_open = open_it
    live: Live | None = None
    try:
        with ExitStack() as stack:
            if serve:
                address = stack.enter_context(serving(ServedFile(page), port=port))
                echo(address)
            waiting = stack.enter_context(Waiting(f"reading {run}"))
            for content in watch_run(run, page=page, language=lang, every_s=every):
                waiting.close()
                if console.is_terminal:
                    live = live or stack.enter_context(Live(console=console, auto_refresh=False))
                    live.update(_view(content, page), refresh=True)
                else:
                    # Nothing can be redrawn there: each update is a line.
                    echo(_line(content))
                if content is not None and to_open:
                    to_open = False
                    typer.launch(address if serve else page.resolve().as_uri())
            if serve:
                echo("The run has ended; its page is served until Ctrl-C.", err=True)
                threading.Event().wait()
    except KeyboardInterrupt:
        echo(f"\nstopped watching; the run itself continues. Its page so far: {page}", err=True)


def _line(content: "RunContent | None") -> str:
    """Return the state of the run as one line."""
    from evovlm.cli.rendering import percent

    if content is None:
        return "no candidate yet"
    stage, points = content.last, content.last.course.points
    scores = (
        f"best {percent(points[-1].best_so_far)}, mean {percent(points[-1].mean)}" if points else "all failed so far"
    )
    failed = f", {content.failed} failed" if content.failed else ""
    name = f"{stage.name}: " if stage.name else ""
    state = ", finished" if content.finished else ""
    return f"{name}{_done(stage)} candidates{failed}, generation {stage.generations}, {scores}{state}"


def _done(stage: "Stage") -> str:
    return f"{len(stage.course.candidates)}/{stage.budget}"


def _view(content: "RunContent | None", page: Path) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from evovlm.cli.rendering import percent, spark_line

    if content is None:
        return Text("no candidate yet")
    points = content.last.course.points
    table = Table.grid(padding=(0, 2))
    for name, values in (
        ("best so far", [point.best_so_far for point in points]),
        ("mean", [point.mean for point in points]),
    ):
        if values:
            low, high = min(point.mean for point in points), max(point.best_so_far for point in points)
            bars = spark_line(values, low=low, high=high, width=40)
            table.add_row(name, bars, f"{percent(values[0])} -> {percent(values[-1])}")
    title = Text(f"{content.title}  {_line(content)}", style="bold")
    return Group(title, table, Text(str(page), style="dim"))
