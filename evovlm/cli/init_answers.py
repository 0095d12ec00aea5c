"""What `evovlm init` knows of a new search, and the search that it describes."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.cli.rendering import as_typed, echo
from evovlm.texts.languages import Say, chosen_language, speaker

if TYPE_CHECKING:
    from evovlm.runs.before.new_search import Opened
    from evovlm.runs.config.new import Kind, NewSearch

_EXAMPLE = "evovlm init llm --base zoo:base --source zoo:math-a --source zoo:ja --task word_problems_ja"


@dataclass(slots=True, kw_only=True)
class Answers:
    """What is known so far, from flags and from answers; `written` are the task files that were written for it."""

    kind: str | None
    base: str | None
    host: str | None
    sources: list[str]
    tasks: list[str]
    prompt: str | None
    method: str
    generations: int | None
    candidates: int | None
    device: str | None
    out: Path
    language: str
    opened: "dict[str, Opened]" = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)

    @property
    def say(self) -> Say:
        """What gives the texts of the user's language."""
        return speaker(self.language)

    def check_complete(self) -> None:
        """Raise ConfigError if an answer is missing."""
        from evovlm.errors import ConfigError

        needed = {"llm or vlm": self.kind, "--base": self.base, "--source": self.sources, "--task": self.tasks}
        needed |= {"--host": self.host} if self.kind == "vlm" else {}
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)}: missing, and there is no terminal to ask on. For example:\n    {_EXAMPLE}"
            )

    def model(self, text: str, *, sees: bool | None = None, like: "Opened | None" = None) -> "Opened":
        """Return the model of that name, opened once. Raises what `open_model` raises."""
        from evovlm.runs.before.new_search import open_model

        if text not in self.opened:
            self.opened[text] = open_model(text, like=like, sees=sees)
        return self.opened[text]

    def split(self, table: Path, *, share: float) -> str:
        """Write the task file that splits a table, beside the new config, say what it does, and return its name."""
        from evovlm.runs.before.new_task import split_table

        made = split_table(table, share=share, folder=self.out.parent, say=self.say)
        if made.is_new:
            self.written.append(made.file)
        echo(f"note: {self.say('init_split', file=made.file, table=table)}", err=True)
        for note in made.notes:
            echo(f"note: {made.file}: {note}", err=True)
        return str(made.file)

    def split_tables(self) -> None:
        """Replace each task that is only a table by a task file that splits it in halves."""
        from evovlm.runs.before.new_task import SHARE, table_to_split

        tables = {name: table_to_split(name) for name in self.tasks}
        self.tasks = [name if table is None else self.split(table, share=SHARE) for name, table in tables.items()]

    def remove_written(self) -> None:
        """Remove the task files that were written."""
        while self.written:
            self.written.pop().unlink(missing_ok=True)

    def command(self) -> str:
        """Return the command that starts with these answers."""
        words = ["evovlm", "init", *([self.kind] if self.kind else [])]
        once = {
            "--base": self.base,
            "--host": self.host,
            "--prompt": None if self.prompt is None else as_typed(self.prompt),
            "--generations": self.generations,
            "--budget": self.candidates,
            "--device": self.device,
            "--method": self.method,
            "--out": self.out,
            "--lang": None if self.language == chosen_language("") else self.language,
        }
        words += [part for flag, value in once.items() if value is not None for part in (flag, str(value))]
        words += [part for source in self.sources for part in ("--source", source)]
        words += [part for task in self.tasks for part in ("--task", task)]
        return shlex.join(words)


def finished(answers: Answers, *, said: bool = True) -> "NewSearch":
    """Return the search that complete answers describe; choose what its host lacks, and print the choices."""
    from evovlm.errors import ConfigError
    from evovlm.runs.before.new_search import open_task, with_prompts
    from evovlm.runs.config.new import GENERATIONS, NewSearch

    kind = read_kind(answers.kind or "")
    given = answers.sources
    vlm_is_source = kind == "vlm" and answers.host is not None and not _names(given, answers.host)
    sources = read_sources([answers.host, *given] if vlm_is_source and answers.host is not None else given)
    base = answers.model(answers.base or "")
    host = answers.model(answers.host, sees=kind == "vlm", like=base) if answers.host is not None else base
    for name in answers.tasks:
        open_task(name).asked(prompt=answers.prompt)
    if answers.generations is not None and answers.candidates is not None:
        raise ConfigError("--generations and --budget both say how long to search. Name one of them.")
    new = NewSearch(
        kind=kind,
        base=base.text,
        host=None if host is base else host.text,
        sources=sources,
        method=answers.method,
        tasks=tuple(answers.tasks),
        blocks=base.checkpoint.layout.n_blocks,
        prompts={} if answers.prompt is None else dict.fromkeys(answers.tasks, answers.prompt),
        generations=answers.generations or GENERATIONS,
        candidates=answers.candidates,
        device=answers.device or "auto",
        language=answers.language,
    )
    opened = {name: answers.model(text, like=base) for name, text in sources.items()}
    new, choices = with_prompts(new, host=host, sources=opened)
    for choice in choices if said else ():
        echo(f"note: {choice}", err=True)
    return new


def read_kind(text: str) -> "Kind":
    from evovlm.errors import ConfigError
    from evovlm.runs.config.new import KINDS

    for kind in KINDS:
        if text.strip().lower() == kind:
            return kind
    raise ConfigError(f"'{text}' is neither llm (language models) nor vlm (a VLM and language models).")


def _names(sources: list[str], model: str) -> bool:
    return any(text.partition("=")[2] == model or text == model for text in sources)


def read_sources(given: list[str]) -> Mapping[str, str]:
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
