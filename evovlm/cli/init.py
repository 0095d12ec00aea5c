"""`evovlm init [llm|vlm]`: a first config of a search, by questions or by flags."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.completion import complete_methods, complete_models, complete_prompts, complete_tasks
from evovlm.cli.init_answers import Answers, finished
from evovlm.cli.init_questions import ask_open, ask_what_to_change
from evovlm.cli.language import Language
from evovlm.cli.rendering import echo, echo_json, from_typed
from evovlm.texts.languages import speaker

if TYPE_CHECKING:
    from evovlm.runs.config.new import NewSearch


def init(
    kind: Annotated[
        str | None, typer.Argument(help="llm (language models) or vlm (a VLM and language models).")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="The model that all others were fine-tuned from.", autocompletion=complete_models),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            help="The model that gives config, tokenizer and chat template: for vlm the vision-language model, for llm "
            "the base or a source; default: the base.",
            autocompletion=complete_models,
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="MODEL or NAME=MODEL; repeat for each.", autocompletion=complete_models),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="A task (`evovlm tasks`), a task file, a table, or ./FOLDER with a table; may be repeated.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="A prompt in place of the tasks' own: chat, a name, or a template with {input} and <image> (and \\n).",
            parser=from_typed,
            autocompletion=complete_prompts,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="How to merge (`evovlm methods`).", autocompletion=complete_methods)
    ] = "dare_ties",
    generations: Annotated[
        int | None, typer.Option("--generations", min=1, max=10**6, help="How long to search; default 10.")
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option("--budget", min=1, max=10**9, help="The number of candidates to try, in place of generations."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cpu:bfloat16, cuda, cuda:1, xpu, mps; default auto.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The new file.")] = Path("search.yaml"),
    lang: Language = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a commented config of a search that runs. On a terminal, ask for what the flags leave open."""
    from evovlm.files import refuse_existing

    refuse_existing(out)
    answers = Answers(
        kind=kind,
        base=base,
        host=host,
        sources=list(source or ()),
        tasks=list(task or ()),
        prompt=prompt,
        method=method,
        generations=generations,
        candidates=budget,
        device=device,
        out=out,
        language=lang,
    )
    if not sys.stdin.isatty():
        answers.check_complete()
        with ExitStack() as undone:
            undone.callback(answers.remove_written)
            answers.split_tables()
            new = finished(answers)
            notes = _write(new, out)
            undone.pop_all()
    else:
        answers.split_tables()
        new, notes = _asked(answers)
    for note in notes:
        echo(f"warning: {note}", err=True)
    if as_json:
        shown = {"file": str(out), "kind": new.kind, "sources": dict(new.sources), "tasks": list(new.tasks)}
        echo_json(shown)
        return
    echo(f"{out}\n\n{answers.say('next')}\n  evovlm check {out}\n  evovlm evolve {out} --out runs/{out.stem}")


def _write(new: "NewSearch", out: Path) -> tuple[str, ...]:
    from evovlm.cli.progress import Waiting
    from evovlm.runs.before.new_search import write_search

    with Waiting(speaker(new.language)("init_checking")):
        return write_search(new, out)


def _asked(answers: Answers) -> "tuple[NewSearch, tuple[str, ...]]":
    """Ask for what is open, and write the config; an answer that does not do is asked again, and no other is lost."""
    from evovlm.errors import EvovlmError, OutputError

    try:
        while True:
            ask_open(answers)
            new = finished(answers)
            try:
                return new, _write(new, answers.out)
            except OutputError:
                raise
            except EvovlmError as error:
                echo(f"{error}", err=True)
                ask_what_to_change(answers)
    except (KeyboardInterrupt, typer.Abort, EvovlmError):
        echo(f"\n{answers.say('init_continue')}\n    {answers.command()}", err=True)
        raise
