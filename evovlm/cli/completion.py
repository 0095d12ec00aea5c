"""Completions of names on the command line. They run at every press of a key, so torch is never loaded.

bash breaks words at `:` and `=` before it asks: `zoo:m` comes as `zoo`, `:`, `m`, and only `m` is replaced.
"""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import typer

_BREAKS = frozenset(":=")


class BashWords(NamedTuple):
    """The words of a line as they were typed, the number of the one to complete, and what of it bash keeps."""

    words: list[str]
    number: int
    kept: str


def joined_words(broken: list[str], number: int) -> BashWords:
    """Join the words of a line that bash has broken at `:` and `=`; `number` is that of the word to complete."""
    joined: list[str] = []
    for place, word in enumerate(broken[: number + 1]):
        follows = place > 0 and (_is_break(word) or _is_break(broken[place - 1]))
        # An empty word or an option begins anew: there was a space before it.
        if follows and word and not word.startswith("-"):
            joined[-1] += word
        else:
            joined.append(word)
    last = broken[number]
    kept = joined[-1].removesuffix("" if _is_break(last) else last)
    # Of `--source=ja=zoo:m` the value alone is completed.
    return BashWords(joined, len(joined) - 1, kept.partition("=")[2] if kept.startswith("-") else kept)


def _is_break(word: str) -> bool:
    return bool(word) and set(word) <= _BREAKS


def complete_in_bash(run: Callable[[], None]) -> None:
    """Answer bash, by running the app, with what follows the part of the word that bash keeps."""
    broken = os.environ.get("COMP_WORDS", "").split("\n")
    number = int(os.environ.get("COMP_CWORD", "0"))
    if number >= len(broken):
        # Another shell's script, which separates the words by spaces.
        run()
        return
    found = joined_words(broken, number)
    os.environ |= {"COMP_WORDS": "\n".join(found.words), "COMP_CWORD": str(found.number)}
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            run()
    finally:
        for line in printed.getvalue().splitlines():
            typer.echo(line.removeprefix(found.kept))


def complete_tasks(incomplete: str) -> list[str]:
    """Return the tasks that begin with the text; in a list with commas, the last one is completed."""
    from evovlm.tasks.catalogue import TASKS

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in TASKS if name.startswith(last)]


def complete_models(incomplete: str) -> list[str]:
    """Return the embedded models that begin with the text, also after `NAME=`; the shell completes folders."""
    from evovlm.assets import asset_path

    before, sign, model = incomplete.rpartition("=")
    names = sorted(f"zoo:{path.parent.name}" for path in asset_path("zoo").glob("*/*.safetensors"))
    return [f"{before}{sign}{name}" for name in names if name.startswith(model)]


def complete_languages(incomplete: str) -> list[str]:
    """Return the languages of the report page that begin with the text."""
    from evovlm.texts.languages import LANGUAGES

    return [name for name in LANGUAGES if name.startswith(incomplete)]


def complete_splits(incomplete: str) -> list[str]:
    """Return the splits that begin with the text."""
    from evovlm.tasks.sample import Split

    return [split.value for split in Split if split.value.startswith(incomplete)]


def complete_picks(context: typer.Context, incomplete: str) -> list[str]:
    """Return what `--pick` takes that begins with the text; of tasks, those of the run that is named."""
    from evovlm.errors import EvovlmError
    from evovlm.runs.run import Run

    names = ["best", "knee", "rated"]
    # Before the option has a value, the words of the line are not yet arguments.
    for folder in filter(Path.is_dir, map(Path, filter(None, (context.params.get("recipe"), *context.args)))):
        with suppress(EvovlmError):
            objective = Run.open(folder).objective
            names += [f"task={task}" for task in (objective.tasks if objective else ())]
    return [name for name in names if name.startswith(incomplete)]


def complete_metrics(incomplete: str) -> list[str]:
    """Return the metrics that begin with the text."""
    from evovlm.tasks.metrics.table import METRICS

    return [name for name in METRICS if name.startswith(incomplete)]


def complete_gates(incomplete: str) -> list[str]:
    """Return the language gates, and `none`, that begin with the text."""
    from evovlm.tasks.metrics.japanese import GATES

    return [name for name in (*GATES, "none") if name.startswith(incomplete)]


def complete_prompts(incomplete: str) -> list[str]:
    """Return the prompts that begin with the text."""
    from evovlm.tasks.prompts import CHAT, PROMPTS

    return [name for name in (CHAT, *PROMPTS) if name.startswith(incomplete)]


def complete_extractors(incomplete: str) -> list[str]:
    """Return the ways to read numbers that begin with the text."""
    from evovlm.tasks.metrics.answers import EXTRACTORS

    return [name for name in EXTRACTORS if name.startswith(incomplete)]


def complete_methods(incomplete: str) -> list[str]:
    """Return the merge methods that begin with the text."""
    from evovlm.merging.arithmetic.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def complete_tables(incomplete: str) -> list[str]:
    """Return the forms of tables that begin with the text."""
    from evovlm.runs.scores.score_table import TABLES

    return [name for name in TABLES if name.startswith(incomplete)]


def complete_forms(incomplete: str) -> list[str]:
    """Return the forms of result files that begin with the text, up to their folder."""
    from evovlm.runs.scores.forms import FORMS

    return [f"{name}=" for name in FORMS if name.startswith(incomplete)]
