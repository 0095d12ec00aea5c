"""`evovlm init [llm|vlm]`: a first config of a search, by questions or by flags."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.completion import complete_methods, complete_models, complete_tasks
from evovlm.cli.rendering import echo, json_text

if TYPE_CHECKING:
    from evovlm.runs.config.new import Kind

_BUDGET = 100
_EXAMPLE = "evovlm init llm --base zoo:base --source zoo:math-a --source zoo:ja --task word_problems_ja"


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
        typer.Option("--host", help="For vlm: the vision-language model.", autocompletion=complete_models),
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
            help="A task (`evovlm tasks`), a task file, or ./FOLDER with pictures and search.csv; may be repeated.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="How to merge (`evovlm methods`).", autocompletion=complete_methods)
    ] = "dare_ties",
    budget: Annotated[
        int | None,
        typer.Option("--budget", min=1, max=10**9, help="The number of candidates to try; default 100."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The new file.")] = Path("search.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a commented config of a search. On a terminal, ask for what the flags leave open."""
    from evovlm.files import refuse_existing
    from evovlm.runs.config.new import NewSearch, write_search

    refuse_existing(out)
    may_ask = sys.stdin.isatty()
    if not may_ask:
        _check_flags(kind, base=base, host=host, sources=source, tasks=task)
    chosen = _kind(kind if kind is not None else _ask("llm or vlm", "llm"))
    vlm = chosen == "vlm"
    if base is None:
        base = _ask("the base model, from which all others were fine-tuned (a folder, a hub id, zoo:NAME)", "zoo:base")
    if vlm and host is None:
        host = _ask("the vision-language model", "zoo:vlm")
    given = source or _ask_each("a source (MODEL or NAME=MODEL)", ["zoo:ja"] if vlm else ["zoo:math-a", "zoo:ja"])
    sources = _sources([host, *given] if vlm and host is not None and not _names(given, host) else given)
    tasks = task or _ask_each("a task, a task file, or a folder", ["emoji_ja" if vlm else "word_problems_ja"])
    if budget is None:
        budget = _number(_ask("how many candidates", str(_BUDGET))) if may_ask else _BUDGET
    new = NewSearch(
        kind=chosen,
        base=base,
        host=host,
        sources=sources,
        method=method,
        tasks=tuple(tasks),
        candidates=budget,
    )
    for note in write_search(new, out):
        echo(f"warning: {note}", err=True)
    if as_json:
        echo(json_text({"file": str(out), "kind": chosen, "sources": sources, "tasks": list(tasks)}))
        return
    echo(f"{out}\n\nNext:\n  evovlm check {out}\n  evovlm evolve {out} --out runs/{out.stem}")


def _check_flags(
    kind: str | None, *, base: str | None, host: str | None, sources: list[str] | None, tasks: list[str] | None
) -> None:
    """Raise ConfigError unless the flags leave nothing to ask."""
    from evovlm.errors import ConfigError

    needed = {"llm or vlm": kind, "--base": base, "--source": sources, "--task": tasks}
    needed |= {"--host": host} if kind == "vlm" else {}
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: missing, and there is no terminal to ask on. For example:\n    {_EXAMPLE}"
        )


def _kind(text: str) -> "Kind":
    from evovlm.errors import ConfigError
    from evovlm.runs.config.new import KINDS

    for kind in KINDS:
        if text.strip().lower() == kind:
            return kind
    raise ConfigError(f"'{text}' is neither llm (language models) nor vlm (a VLM and language models).")


def _number(text: str) -> int:
    from evovlm.errors import ConfigError

    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"'{text}' is not a number of candidates; write 1 or more.")
    return int(text)


def _ask(question: str, default: str) -> str:
    # Questions go where results do not.
    echo(f"{question} [{default}]: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        raise typer.Abort
    return answer.strip() or default


def _ask_each(question: str, defaults: list[str]) -> list[str]:
    """Ask until nothing is answered; nothing at first takes the defaults."""
    answers: list[str] = []
    while True:
        shown = "nothing more" if answers else " ".join(defaults)
        answer = _ask(question, shown)
        if answer == shown:
            return answers or defaults
        answers.append(answer)


def _names(sources: list[str], model: str) -> bool:
    return any(text.partition("=")[2] == model or text == model for text in sources)


def _sources(given: list[str]) -> dict[str, str]:
    from evovlm.errors import ConfigError
    from evovlm.runs.config.new import source_name

    found: dict[str, str] = {}
    for text in given:
        name, sign, model = text.partition("=")
        name, model = (name, model) if sign else (source_name(text), text)
        if name in found:
            raise ConfigError(f"two sources would be called '{name}'. Name one: --source NAME=MODEL.")
        found[name] = model
    return found
