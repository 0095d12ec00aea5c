"""`evovlm rate RUN` or `evovlm rate MODEL_A MODEL_B --task T`: people compare answers blind."""

import getpass
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from evovlm.cli.allow_code import AllowCode, announce_allowed
from evovlm.cli.completion import complete_models, complete_prompts, complete_tasks
from evovlm.cli.language import Language
from evovlm.cli.rendering import echo, echo_json, from_typed, interval_text, percent

if TYPE_CHECKING:
    from evovlm.runs.folder.ratings import Chosen
    from evovlm.runs.scores.contest import Contest, Question
    from evovlm.texts.languages import Say

_KEYS = {"1": "left", "2": "right", "0": "tie"}
_LONGEST_NAME = 40


def rate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN-or-MODELS", help="A run's folder, or two or more models.", autocompletion=complete_models
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="The task whose answers are compared [default: a run's first].",
            autocompletion=complete_tasks,
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=2, max=20, help="How many of a run's candidates take part.")] = 4,
    samples: Annotated[int, typer.Option("--samples", min=1, max=10_000, help="How many samples they answer.")] = 20,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="For models: a prompt in place of the task's own: chat, a name, or a template with {input} and "
            "<image> (and \\n).",
            parser=from_typed,
            autocompletion=complete_prompts,
        ),
    ] = None,
    rater: Annotated[str, typer.Option("--as", help="Your name in the journal [default: the login name].")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="For models: the folder for answers and ratings [default: ratings].")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Compare in the browser, on a local page.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="The page's port; 0: any free one.")] = 0,
    results: Annotated[bool, typer.Option("--results", help="Show the strengths so far without asking.")] = False,
    device: Annotated[str, typer.Option("--device", help="For models: auto, cpu, cuda, cuda:1, ...")] = "auto",
    lang: Language = "",
    allow_code: AllowCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the strengths as JSON without asking.")] = False,
) -> None:
    """Compare answers blind, and see which model people prefer.

    The journal of choices is kept; the same command continues, and several people may take part (--as).
    `evovlm export RUN --pick rated` takes the preferred candidate.
    """
    from evovlm.cli.signals import stopping
    from evovlm.texts.languages import speaker

    name = _checked(rater or getpass.getuser())
    say = speaker(lang)
    asking = not results and not as_json
    with stopping():
        contest = _contest(
            what,
            task=task,
            top=top,
            samples=samples,
            prompt=prompt,
            asking=asking,
            out=out,
            device=device,
            allow_code=allow_code,
            say=say,
        )
    if asking and not contest.has_differences:
        echo(say("rate_equal", n=len(contest.names), samples=len(contest.samples)), err=True)
    elif asking:
        echo(say("rate_keeps", file=contest.ratings.path), err=True)
        if serve:
            _serve(contest, rater=name, say=say, language=lang, port=port)
        else:
            _ask(contest, rater=name, say=say)
    _print(contest, say=say, as_json=as_json)


def _checked(name: str) -> str:
    from evovlm.errors import ConfigError

    if not name.isprintable() or not 0 < len(name.strip()) <= _LONGEST_NAME:
        raise ConfigError(f"--as: '{name:.60}' is not a name. Write 1 to {_LONGEST_NAME} letters.")
    return name.strip()


def _contest(
    what: list[str],
    *,
    task: str | None,
    top: int,
    samples: int,
    prompt: str | None,
    asking: bool,
    out: Path | None,
    device: str,
    allow_code: bool,
    say: "Say",
) -> "Contest":
    from evovlm.cli.progress import ScoreProgress, Waiting
    from evovlm.errors import ConfigError

    with Waiting(say("init_reading")):
        from evovlm.evaluation.answers import TaskChoice
        from evovlm.runs.run import Run
        from evovlm.runs.scores.contest import contest_of_models, contest_of_run
        from evovlm.tasks.catalogue import check_task_names, code_of_tasks
        from evovlm.tasks.sample import Split

        if len(what) == 1 and not Path(what[0]).is_dir():
            raise ConfigError(f"{what[0]}: is not a folder; name the folder of a run, or two models to compare.")
        run = Run.open(Path(what[0])) if len(what) == 1 else None
        if run is None and task is None:
            raise ConfigError("--task is missing: name the task that the models answer.")
        if run is not None and out is not None:
            raise ConfigError("--out: the ratings of a run are kept in its folder. Leave --out out.")
        if run is not None and prompt is not None:
            raise ConfigError("--prompt: a run's models answer the prompts of its config. Leave --prompt out.")
        if run is None:
            check_task_names([str(task)], split=Split.REPORT, decoding=None, prompt=prompt)
    code = code_of_tasks([str(task)] if run is None else [each.name for each in run.config.tasks])
    announce_allowed(code, allow_code=allow_code)
    with closing(ScoreProgress()) as progress:
        if run is not None:
            run.check_begun()
            return contest_of_run(
                run,
                task=task,
                n_candidates=top,
                n_samples=samples,
                answered=asking,
                allow_code=allow_code,
                observer=progress,
            )
        return contest_of_models(
            what,
            TaskChoice(name=str(task), prompt=prompt, limit=samples),
            split=Split.REPORT,
            out=out or Path("ratings"),
            device=device,
            answered=asking,
            allow_code=allow_code,
            observer=progress,
        )


def _serve(contest: "Contest", *, rater: str, say: "Say", language: str, port: int) -> None:
    from evovlm.report.loopback import serving
    from evovlm.report.rating_page import RatingPage

    with serving(RatingPage(contest=contest, rater=rater, language=language), port=port) as address:
        echo(f"{address}\n{say('rate_serving')}")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            echo(err=True)


def _ask(contest: "Contest", *, rater: str, say: "Say") -> None:
    """Ask in the terminal, until all is answered or the person stops."""
    from evovlm.errors import ConfigError

    if contest.has_pictures:
        raise ConfigError("the questions are about pictures, which a terminal cannot show. Add --serve for a page.")
    shown: int | None = None
    while (question := contest.question(rater)) is not None:
        if shown != question.number:
            _show(question, say=say)
            shown = question.number
        key = _key()
        if key in ("q", "", "\x03", "\x04"):
            return
        if key == "u":
            contest.ratings.undo(rater)
            shown = None
        elif key in _KEYS:
            chosen = cast("Chosen", _KEYS[key])
            contest.ratings.append(question.choice(chosen, rater=rater, task=contest.task))


def _show(question: "Question", *, say: "Say") -> None:
    rule = "─" * 40
    echo(f"\n{rule}\n{say('rate_progress', number=question.number, n=question.n)}\n\n{question.sample.question}")
    for number, choice in enumerate(question.sample.choices):
        echo(f"  {chr(ord('A') + number)}. {choice}")
    for key, side, text in (("1", "rate_left", question.left_text), ("2", "rate_right", question.right_text)):
        echo(f"\n[{key}] {say(side)}\n{text or say('no_answer')}")
    echo(f"\n{say('rate_keys')}")


def _key() -> str:
    """Return the key that was pressed; without a terminal, the next line of the standard input, empty at its end."""
    if sys.stdin.isatty():
        import click

        # Keys that come together, such as 1 and Enter over a slow line, are one text.
        return click.getchar()[:1].lower()
    line = sys.stdin.readline()
    return line.strip().lower() or ("?" if line else "")


def _print(contest: "Contest", *, say: "Say", as_json: bool) -> None:
    found = contest.ratings.strengths()
    if as_json:
        rows = [
            {
                "model": contest.names.get(key),
                "key": key,
                "share": each.share,
                "interval": list(each.interval),
                "won": each.won,
                "n": each.n,
            }
            for key, each in found.items()
        ]
        people = [
            {"raters": list(names), "n": each.n, "share": each.share, "kappa": each.kappa}
            for names, each in contest.ratings.agreements.items()
        ]
        echo_json({"task": contest.task, "strengths": rows, "agreement": people})
        return
    if not found:
        echo(say("rate_no_choices"))
        return
    from rich.console import Console

    from evovlm.cli.tables import cell, plain_table, print_line

    console = Console()
    table = plain_table()
    table.add_column(say("model"))
    for heading in ("rate_share", "interval", "rate_won"):
        table.add_column(say(heading), justify="right")
    for key, each in found.items():
        interval = interval_text(*each.interval)
        table.add_row(cell(contest.names.get(key, key)), percent(each.share), interval, f"{each.won:g} / {each.n}")
    console.print(table)
    print_line(console, say("rate_about"))
    for (first, second), shared in contest.ratings.agreements.items():
        kappa = "" if shared.kappa is None else f" {say('rate_kappa', kappa=f'{shared.kappa:.2f}')}"
        share = percent(shared.share)
        print_line(console, say("rate_agreement", first=first, second=second, share=share, n=shared.n) + kappa)
