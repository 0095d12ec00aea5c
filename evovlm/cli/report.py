"""`evovlm report RUN...`: a run, or several side by side, as one HTML file to look at."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.allow_code import AllowCode, announce_allowed
from evovlm.cli.language import Language
from evovlm.cli.rendering import echo, echo_json

if TYPE_CHECKING:
    from evovlm.report.content import RunContent, RunsContent


def report(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder, finished or not; or several to compare.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The new HTML file [default: RUN/report.html, of several runs comparison.html]."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    lang: Language = "",
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Also write every figure into this new folder, as SVG and PNG.")
    ] = None,
    score: Annotated[
        bool,
        typer.Option(
            "--score", help="First score the winner, its parents and the equal-weights merge on the report split."
        ),
    ] = False,
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Make one HTML page of a run, or of several side by side.

    It shows what was found, how certain it is, what the recipe does, and every answer.
    """
    from evovlm.cli.progress import Waiting

    with Waiting("loading the libraries that draw"):
        from evovlm.files import write_file
        from evovlm.report.files import check_new, png_language, write_figures
        from evovlm.runs.folder.layout import PAGE_FILE

    several = len(runs) > 1
    page = out or (Path("comparison.html") if several else runs[0] / PAGE_FILE)
    # The page inside a run's folder belongs to this command, which may rewrite it.
    for new in ([page] if out or several else []) + ([figures] if figures else []):
        check_new(new)
    if score:
        _score(runs, allow_code=allow_code)
    with Waiting("drawing the page"):
        content = _read(runs)
        write_file(page, _html(content, language=lang))
        files = write_figures(figures, content, language=lang) if figures is not None else ()
    if figures is not None and png_language(lang) != lang:
        echo(
            "this machine does not have a Japanese font: the words in the PNG files are English, those in the SVG "
            "files Japanese.\n    Install one, such as: apt-get install fonts-noto-cjk",
            err=True,
        )
    _print_written(page, figures, files, missing=[] if several else _missing(content), as_json=as_json)
    if open_it:
        typer.launch(page.resolve().as_uri())


def _print_written(
    page: Path, figures: Path | None, files: Sequence[Path], *, missing: list[str], as_json: bool
) -> None:
    if as_json:
        written = {"page": str(page), "figures": [str(file) for file in files], "unscored": missing}
        echo_json(written)
        return
    echo(str(page))
    if figures is not None:
        echo(f"{figures}: {len(files)} figures")
    if missing:
        echo(f"not yet scored on the report split: {', '.join(missing)}. `--score` scores them.", err=True)


def _score(runs: list[Path], *, allow_code: bool) -> None:
    from evovlm.cli.progress import ScoreProgress
    from evovlm.cli.signals import stopping
    from evovlm.runs.run import Run
    from evovlm.runs.scores.contenders import report_tasks, score_missing
    from evovlm.tasks.catalogue import code_of_tasks

    progress = ScoreProgress()
    with stopping(), closing(progress):
        for folder in runs:
            run = Run.open(folder)
            run.check_begun()
            code = code_of_tasks(choice.name for choice in report_tasks(run.config))
            announce_allowed(code, allow_code=allow_code)
            score_missing(run, allow_code=allow_code, observer=progress)


def _read(runs: list[Path]) -> "RunContent | RunsContent":
    from evovlm.report.comparing import read_runs
    from evovlm.report.reading import read_run

    return read_runs(runs) if len(runs) > 1 else read_run(runs[0])


def _html(content: "RunContent | RunsContent", *, language: str) -> str:
    from evovlm.report.content import RunContent
    from evovlm.report.page import run_page, runs_page

    if isinstance(content, RunContent):
        return run_page(content, language=language)
    return runs_page(content, language=language)


def _missing(content: "RunContent | RunsContent") -> list[str]:
    return list(getattr(content, "unscored", ()))
