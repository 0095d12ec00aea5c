"""`evovlm init [llm|vlm]`: a first config of a search, by questions or by flags."""

import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.completion import complete_methods, complete_models, complete_prompts, complete_tasks
from evovlm.cli.language import Language
from evovlm.cli.questions import Choice, ask, ask_each
from evovlm.cli.rendering import echo, json_text
from evovlm.texts.languages import Say, chosen_language, speaker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evovlm.runs.before.new_search import Opened
    from evovlm.runs.config.new import Kind, NewSearch

_EXAMPLE = "evovlm init llm --base zoo:base --source zoo:math-a --source zoo:ja --task word_problems_ja"
_MOST_CHOICES = 12


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
            help="A task (`evovlm tasks`), a task file, or ./FOLDER with pictures and search.csv; may be repeated.",
            autocompletion=complete_tasks,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="A prompt in place of the tasks' own: chat, a name, or a template with {input} and <image>.",
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
        str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, xpu, mps; default auto.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The new file.")] = Path("search.yaml"),
    lang: Language = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a commented config of a search that runs. On a terminal, ask for what the flags leave open."""
    from evovlm.files import refuse_existing

    refuse_existing(out)
    answers = _Answers(
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
        new = _finished(answers)
        notes = _write(new, out)
    else:
        new, notes = _asked(answers)
    for note in notes:
        echo(f"warning: {note}", err=True)
    if as_json:
        shown = {"file": str(out), "kind": new.kind, "sources": dict(new.sources), "tasks": list(new.tasks)}
        echo(json_text(shown))
        return
    echo(f"{out}\n\n{answers.say('next')}\n  evovlm check {out}\n  evovlm evolve {out} --out runs/{out.stem}")


@dataclass(slots=True, kw_only=True)
class _Answers:
    """What is known so far, from flags and from answers."""

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

    @property
    def say(self) -> Say:
        """What gives the texts of the user's language."""
        return speaker(self.language)

    def check_complete(self) -> None:
        """Raise ConfigError unless nothing is left to ask."""
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

    def command(self) -> str:
        """Return the command that starts with these answers."""
        words = ["evovlm", "init", *([self.kind] if self.kind else [])]
        once = {
            "--base": self.base,
            "--host": self.host,
            "--prompt": self.prompt,
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


def _finished(answers: _Answers, *, said: bool = True) -> "NewSearch":
    """Return the search that complete answers describe; what its host lacks is chosen, and said."""
    from evovlm.errors import ConfigError
    from evovlm.runs.before.new_search import open_task, with_prompts
    from evovlm.runs.config.new import GENERATIONS, NewSearch

    kind = _kind(answers.kind or "")
    given = answers.sources
    vlm_is_source = kind == "vlm" and answers.host is not None and not _names(given, answers.host)
    sources = _sources([answers.host, *given] if vlm_is_source and answers.host is not None else given)
    base = answers.model(answers.base or "")
    host = answers.model(answers.host, sees=kind == "vlm", like=base) if answers.host is not None else base
    for name in answers.tasks:
        open_task(name).with_prompt(answers.prompt)
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


def _write(new: "NewSearch", out: Path) -> tuple[str, ...]:
    from evovlm.cli.progress import Waiting
    from evovlm.runs.before.new_search import write_search

    with Waiting("checking the search"):
        return write_search(new, out)


def _asked(answers: _Answers) -> "tuple[NewSearch, tuple[str, ...]]":
    """Ask for what is open, and write the config; an answer that does not do is asked again, and no other is lost."""
    from evovlm.errors import EvovlmError, OutputError

    try:
        while True:
            _ask_open(answers)
            new = _finished(answers)
            try:
                return new, _write(new, answers.out)
            except OutputError:
                raise
            except EvovlmError as error:
                echo(f"{error}", err=True)
                _ask_what_to_change(answers)
    except (KeyboardInterrupt, typer.Abort, EvovlmError):
        echo(f"\n{answers.say('init_continue')}\n    {answers.command()}", err=True)
        raise


def _ask_open(answers: _Answers) -> None:
    """Ask for what is open, in turn."""
    say = answers.say
    if answers.kind is None:
        kinds = [Choice(name, say(f"init_kind_{name}")) for name in ("llm", "vlm")]
        answers.kind = ask(say("init_kind"), default="llm", choices=kinds, read=_kind)
    kind = _kind(answers.kind)
    for question in (_ask_base, _ask_sources, _ask_host, _ask_tasks):
        question(answers, kind)
    if answers.prompt is None:
        _ask_prompt(answers, kind)
    if answers.generations is None and answers.candidates is None:
        population = _population(answers)
        question_text = say("init_generations", population=population)
        answers.generations = ask(question_text, default="10", choices=(), read=_whole_number)
    if answers.device is None:
        devices = (Choice("auto", say("init_device_auto")), Choice("cpu"), Choice("cuda"))
        answers.device = ask(say("init_device"), default="auto", choices=devices, read=_device)


def _ask_base(answers: _Answers, _kind: "Kind") -> None:
    if answers.base is None:
        question = answers.say("init_base")
        choices = _models(answers.say, sees=False)
        default = choices[0].answer if choices else "zoo:base"
        answers.base = ask(question, default=default, choices=choices, read=lambda text: answers.model(text).text)


def _ask_host(answers: _Answers, kind: "Kind") -> None:
    base = answers.model(answers.base or "")
    if answers.host is not None:
        return
    if kind == "vlm":
        choices = _models(answers.say, sees=True)
        answers.host = ask(
            answers.say("init_vlm"),
            default=choices[0].answer,
            choices=choices,
            read=lambda text: answers.model(text, sees=True, like=base).text,
        )
        return
    models = {base.text: base, **{text: answers.model(text) for text in _sources(answers.sources).values()}}
    choices = [Choice(text, model.brings(answers.say)) for text, model in models.items()]
    question = answers.say("init_host")
    chosen = ask(question, default=base.text, choices=choices, read=lambda text: answers.model(text, like=base).text)
    # Without a host, it is the base.
    answers.host = None if chosen == base.text else chosen


def _ask_sources(answers: _Answers, kind: "Kind") -> None:
    if answers.sources:
        return
    base = answers.model(answers.base or "")

    def read(text: str) -> str:
        answers.model(text.rpartition("=")[2], like=base)
        return text

    choices = [
        each
        for each in _models(answers.say, sees=False)
        if each.answer != answers.base and _fits(answers, each.answer, base)
    ]
    near = [each.answer for each in choices if not each.answer.startswith("zoo:")]
    defaults = near[:2] or (["zoo:ja"] if kind == "vlm" else ["zoo:math-a", "zoo:ja"])
    answers.sources = ask_each(
        answers.say("init_source"), end=answers.say("init_more"), defaults=defaults, choices=choices, read=read
    )


def _ask_tasks(answers: _Answers, kind: "Kind") -> None:
    from evovlm.runs.before.new_search import catalogue_tasks, nearby_tasks, open_task

    if answers.tasks:
        return

    def read(text: str) -> str:
        open_task(text)
        return text

    near = [Choice(name, answers.say("init_yours")) for name in nearby_tasks(Path())]
    choices = [*near, *(Choice(task.name, task.description) for task in catalogue_tasks(kind))][:_MOST_CHOICES]
    answers.tasks = ask_each(
        answers.say("init_task"), end=answers.say("init_more"), defaults=[choices[0].answer], choices=choices, read=read
    )


def _ask_prompt(answers: _Answers, kind: "Kind") -> None:
    """Ask for a prompt if a task is asked with a chat template that the host does not have."""
    from evovlm.runs.before.new_search import WRITTEN_PROMPTS, open_task, prompt_problem
    from evovlm.tasks.prompts import CHAT, PLACE, PROMPTS

    tasks = [open_task(name) for name in answers.tasks]
    host = answers.model(answers.host or answers.base or "")
    refused = [task for task in tasks if task.prompt == CHAT and prompt_problem(task, host=host) is not None]
    if not refused:
        return
    new = _finished(answers, said=False)
    named = answers.say("comma").join(task.name for task in refused)
    say = answers.say
    taken = [Choice(CHAT, say("init_prompt_template", source=new.chat_template))] if new.chat_template else []
    fitting = [Choice(name) for name, template in PROMPTS.items() if (PLACE in template) == (kind == "vlm")]
    choices = [*taken, Choice(WRITTEN_PROMPTS[kind].replace("\n", "\\n")), *fitting]

    def read(text: str) -> str | None:
        written = text.replace("\\n", "\n")
        for task in tasks:
            task.with_prompt(written)
        return None if taken and written == CHAT else written

    question = say("init_prompt", tasks=named, host=host.text)
    answers.prompt = ask(question, default=choices[0].answer, choices=choices, read=read)


def _ask_what_to_change(answers: _Answers) -> None:
    """Ask which answer to give again, and forget it."""
    shown = {
        "base": answers.base,
        "sources": " ".join(answers.sources),
        "host": answers.host or answers.base,
        "tasks": " ".join(answers.tasks),
        "prompt": answers.prompt or answers.say("init_own_prompt"),
        "budget": answers.generations or answers.candidates,
        "device": answers.device,
    }
    choices = [Choice(name, str(value)) for name, value in shown.items()]

    def read(text: str) -> str:
        from evovlm.errors import ConfigError
        from evovlm.recipes.problems import did_you_mean

        if text not in shown:
            raise ConfigError(f"'{text}' is not one of the answers{did_you_mean(text, shown)}")
        return text

    changed = ask(answers.say("init_change"), default="sources", choices=choices, read=read)
    if changed == "budget":
        answers.generations = answers.candidates = None
    else:
        setattr(answers, changed, [] if changed in ("sources", "tasks") else None)
    answers.opened.clear()


def _population(answers: _Answers) -> int:
    from evovlm.runs.before.new_search import population_of

    with TemporaryDirectory(dir=answers.out.parent, prefix=".init-") as scratch:
        new = replace(_finished(answers, said=False), candidates=None)
        return population_of(new, Path(scratch) / "search.yaml")


def _fits(answers: _Answers, text: str, base: "Opened") -> bool:
    from evovlm.errors import EvovlmError

    try:
        return answers.model(text, like=base) is not None
    except EvovlmError:
        return False


def _models(say: Say, *, sees: bool) -> list[Choice]:
    """Return the models nearby and the embedded ones, at most a screen of them."""
    from evovlm.recipes.language_config import has_vision
    from evovlm.recipes.model_ref import parse_model_ref, read_config
    from evovlm.runs.before.new_search import nearby_models

    near = [Choice(text) for text in nearby_models(Path(), sees=sees)]
    zoo = complete_models("zoo:")
    fitting = [name for name in zoo if has_vision(read_config(parse_model_ref(name, relative_to=None)) or {}) == sees]
    return [*near, *(Choice(name, say("init_embedded")) for name in fitting)][:_MOST_CHOICES]


def _kind(text: str) -> "Kind":
    from evovlm.errors import ConfigError
    from evovlm.runs.config.new import KINDS

    for kind in KINDS:
        if text.strip().lower() == kind:
            return kind
    raise ConfigError(f"'{text}' is neither llm (language models) nor vlm (a VLM and language models).")


def _whole_number(text: str) -> int:
    from evovlm.errors import ConfigError

    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise ConfigError(f"'{text}' is not a number of generations; write 1 to 999999.")
    return int(text)


def _device(text: str) -> str:
    from evovlm.devices import SPREAD, device_name

    if text != SPREAD:
        device_name(text)
    return text


def _names(sources: list[str], model: str) -> bool:
    return any(text.partition("=")[2] == model or text == model for text in sources)


def _sources(given: list[str]) -> "Mapping[str, str]":
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
