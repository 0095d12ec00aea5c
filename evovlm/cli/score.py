"""`evovlm score MODEL... --task T`: how good models are at one or more tasks, and which of them is better."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evovlm.evaluation.answering import ScoredTask
    from evovlm.runs.scores import Pair, Scores


def score(
    models: Annotated[list[str], typer.Argument(help="A folder, a hub id, zoo:NAME, or a recipe (YAML); or several.")],
    task: Annotated[
        list[str],
        typer.Option(
            "--task",
            "-t",
            help="A task (`evovlm tasks` lists them), a task file, or lm_eval:NAME_OR_FILE[#METRIC[,FILTER]] "
            "(lm-evaluation-harness; its task files run code); T1,T2 for several, or repeat.",
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="search or report.")] = "report",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score only the first samples.")] = None,
    decoding: Annotated[
        str | None, typer.Option("--decoding", help="One of the tasks' cheaper ways to decode.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option("--data", help="TASK=PATH: read a task's data from there.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    save: Annotated[Path | None, typer.Option("--save", help="Keep every answer in this folder, as they come.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers that --save kept.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Score models on the report split of one or more tasks, and compare each two of them."""
    from evovlm.cli.rendering import INTERRUPTED, ScoreProgress
    from evovlm.errors import ConfigError
    from evovlm.evaluation.answering import TaskChoice
    from evovlm.runs.scores import ScoreRequest, score_models
    from evovlm.tasks.task import parse_split

    if resume and save is None:
        raise ConfigError("--resume goes on with what --save kept. Name its folder with --save.")
    names = _task_names(task)
    places = _places(data or [], names)
    choices = tuple(TaskChoice(name=name, decoding=decoding, limit=limit, data=places.get(name)) for name in names)
    request = ScoreRequest(models=tuple(models), tasks=choices, split=parse_split(split), device=device)
    progress = ScoreProgress()
    try:
        scores = score_models(request, save=save, resume=resume, observer=progress)
    except KeyboardInterrupt:
        progress.close()
        typer.echo(_stopped(save, resume=resume), err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        progress.close()
    if as_json:
        typer.echo(json.dumps(scores.as_json(), ensure_ascii=False))
        return
    _print(scores, split=split)


def _task_names(given: list[str]) -> list[str]:
    from evovlm.errors import ConfigError
    from evovlm.tasks.harness_name import is_harness_name

    names: list[str] = []
    for text in given:
        # A comma means something else in the name of a harness task, and may stand in a file's.
        whole = is_harness_name(text) or Path(text).exists()
        names += [text] if whole else [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise ConfigError(f"--task: a task is named twice ({', '.join(names)}). Name each once.")
    return names


def _places(data: list[str], tasks: list[str]) -> dict[str, Path]:
    from evovlm.errors import TaskError

    places: dict[str, Path] = {}
    for entry in data:
        name, sign, path = entry.partition("=")
        if not sign or name not in tasks:
            raise TaskError(f"--data {entry}: write TASK=PATH with a task that is scored ({', '.join(tasks)}).")
        places[name] = Path(path)
    return places


def _stopped(save: Path | None, *, resume: bool) -> str:
    import sys

    if save is None:
        return "\nstopped; with --save DIR it could go on."
    again = shlex.join(["evovlm", *sys.argv[1:], *([] if resume else ["--resume"])])
    return f"\nstopped; nothing is lost. To go on:\n    {again}"


def _print(scores: "Scores", *, split: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    tasks = [[model.tasks[place] for model in scores.models] for place in range(len(scores.models[0].tasks))]
    unscored = any(task.unscored for same in tasks for task in same)
    for same in tasks:
        table = Table(title=f"{same[0].name}, {split} split: {same[0].measured}", title_justify="left")
        table.add_column("model")
        headings = ("score", "95 % interval", "ungated", "Japanese", "samples", *(("unscored",) if unscored else ()))
        for heading in headings:
            table.add_column(heading, justify="right")
        for model, scored in zip(scores.models, same, strict=True):
            _add_rows(table, model.model, scored, unscored=unscored)
        console.print(table)
        for model, scored in zip(scores.models, same, strict=True):
            for reason, count in scored.unscored.items():
                _print_line(console, f"{model.model}: {count} of {scored.score.n} unscored: {reason}")
        for pair in scores.pairs:
            if pair.task == same[0].name:
                _print_pair(console, pair)


def _add_rows(table: "Table", model: str, scored: "ScoredTask", *, unscored: bool) -> None:
    from rich.text import Text

    from evovlm.cli.rendering import interval_text, percent
    from evovlm.evaluation.intervals import mean_interval

    rows = [(model, scored.score)]
    rows += [(f"  {tag}", found) for tag in scored.tags if (found := scored.tagged(tag)) is not None]
    for name, score in rows:
        table.add_row(
            Text(name),
            percent(score.score),
            interval_text(*mean_interval(score.per_sample)),
            percent(score.ungated),
            f"{100 * score.japanese:.0f} %",
            str(score.n),
            *((str(score.unscored),) if unscored else ()),
        )


def _print_pair(console: "Console", pair: "Pair") -> None:
    from evovlm.cli.rendering import percent

    found = pair.comparison
    _print_line(
        console,
        f"{pair.first} - {pair.second}: {percent(found.difference)} (95 % interval {percent(found.low)} to "
        f"{percent(found.high)}), p = {found.p_value:.2g} ({found.test}); on {found.n} samples won {found.wins}, "
        f"lost {found.losses}, tied {found.ties}",
    )


def _print_line(console: "Console", text: str) -> None:
    from evovlm.cli.rendering import without_controls

    console.print(without_controls(text), markup=False, highlight=False, soft_wrap=True)
