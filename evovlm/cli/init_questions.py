"""The questions of `evovlm init`: each answer is checked at once, and those given by flags are not asked for."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from evovlm.cli.completion import complete_models
from evovlm.cli.init_answers import Answers, finished, read_kind, read_sources
from evovlm.cli.questions import Choice, ask, ask_each
from evovlm.cli.rendering import as_typed, from_typed
from evovlm.texts.languages import Say, described

if TYPE_CHECKING:
    from evovlm.cli.progress import Waiting
    from evovlm.runs.before.new_search import Opened
    from evovlm.runs.config.new import Kind

_MOST_CHOICES = 12


def ask_open(answers: Answers) -> None:
    """Ask for each answer that is missing, in turn."""
    say = answers.say
    if answers.kind is None:
        kinds = [Choice(name, say(f"init_kind_{name}")) for name in ("llm", "vlm")]
        answers.kind = ask(say("init_kind"), default="llm", choices=kinds, read=read_kind)
    kind = read_kind(answers.kind)
    for question in (_ask_base, _ask_sources, _ask_host, _ask_tasks):
        question(answers, kind)
    if answers.prompt is None:
        _ask_prompt(answers, kind)
    if answers.generations is None and answers.candidates is None:
        with _working(say):
            population = _population(answers)
        question_text = say("init_generations", population=population)
        answers.generations = ask(question_text, default="10", choices=(), read=_whole_number)
    if answers.device is None:
        devices = (Choice("auto", say("init_device_auto")), Choice("cpu"), Choice("cuda"))
        answers.device = ask(say("init_device"), default="auto", choices=devices, read=_device)


def _working(say: Say) -> "Waiting":
    """Return a display for work between two questions that may take long."""
    from evovlm.cli.progress import Waiting

    return Waiting(say("init_reading"))


def _ask_base(answers: Answers, _kind: "Kind") -> None:
    if answers.base is None:
        question = answers.say("init_base")
        choices = _models(answers.say, sees=False)
        default = choices[0].answer if choices else "zoo:base"
        answers.base = ask(
            question,
            default=default,
            choices=choices,
            read=lambda text: answers.model(text).text,
            checking=answers.say("init_reading"),
        )


def _ask_host(answers: Answers, kind: "Kind") -> None:
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
            checking=answers.say("init_reading"),
        )
        return
    models = {base.text: base, **{text: answers.model(text) for text in read_sources(answers.sources).values()}}
    choices = [Choice(text, model.brings(answers.say)) for text, model in models.items()]
    question = answers.say("init_host")
    chosen = ask(
        question,
        default=base.text,
        choices=choices,
        read=lambda text: answers.model(text, like=base).text,
        checking=answers.say("init_reading"),
    )
    # Without a host, it is the base.
    answers.host = None if chosen == base.text else chosen


def _ask_sources(answers: Answers, kind: "Kind") -> None:
    if answers.sources:
        return
    base = answers.model(answers.base or "")

    def read(text: str) -> str:
        answers.model(text.rpartition("=")[2], like=base)
        return text

    # A folder may have been typed in another form than it is listed in.
    taken = Path(base.text).absolute()
    models = [each for each in _models(answers.say, sees=False) if Path(each.answer).absolute() != taken]
    with _working(answers.say):
        choices = [each for each in models if _fits(answers, each.answer, base)]
    near = [each.answer for each in choices if not each.answer.startswith("zoo:")]
    defaults = near[:2] or (["zoo:ja"] if kind == "vlm" else ["zoo:math-a", "zoo:ja"])
    answers.sources = ask_each(
        answers.say("init_source"),
        end=answers.say("init_more"),
        defaults=defaults,
        choices=choices,
        read=read,
        checking=answers.say("init_reading"),
    )


def _ask_tasks(answers: Answers, kind: "Kind") -> None:
    from evovlm.runs.before.new_search import catalogue_tasks, nearby_tasks, open_task
    from evovlm.runs.before.new_task import SHARE, check_splittable, table_to_split

    if answers.tasks:
        return

    def read(text: str) -> str:
        if table_to_split(text) is None:
            open_task(text)
        else:
            check_splittable(text)
        return text

    with _working(answers.say):
        near = [Choice(name, answers.say("init_yours")) for name in nearby_tasks(Path(), kind=kind)]
    choices = [
        *near,
        *(
            Choice(task.name, described(task.name, task.description, language=answers.language))
            for task in catalogue_tasks(kind)
        ),
    ][:_MOST_CHOICES]
    chosen = ask_each(
        answers.say("init_task"),
        end=answers.say("init_more"),
        defaults=[choices[0].answer],
        choices=choices,
        read=read,
        checking=answers.say("init_reading"),
    )
    for name in chosen:
        table = table_to_split(name)
        if table is None:
            answers.tasks.append(name)
            continue
        share = ask(answers.say("init_share", table=table), default=str(SHARE), choices=(), read=_share)
        answers.tasks.append(answers.split(table, share=share))


def _ask_prompt(answers: Answers, kind: "Kind") -> None:
    """Ask for a prompt if a task is asked with a chat template that the host does not have."""
    from evovlm.runs.before.new_search import WRITTEN_PROMPTS, open_task, prompt_problem
    from evovlm.tasks.prompts import CHAT, PLACE, PROMPTS

    with _working(answers.say):
        tasks = [open_task(name) for name in answers.tasks]
        host = answers.model(answers.host or answers.base or "")
        refused = [task for task in tasks if task.prompt == CHAT and prompt_problem(task, host=host) is not None]
        if not refused:
            return
        new = finished(answers, said=False)
    named = answers.say("comma").join(task.name for task in refused)
    say = answers.say
    taken = [Choice(CHAT, say("init_prompt_template", source=new.chat_template))] if new.chat_template else []
    fitting = [Choice(name) for name, template in PROMPTS.items() if (PLACE in template) == (kind == "vlm")]
    choices = [*taken, Choice(as_typed(WRITTEN_PROMPTS[kind])), *fitting]

    def read(text: str) -> str | None:
        written = from_typed(text)
        for task in tasks:
            task.asked(prompt=written)
        return None if taken and written == CHAT else written

    question = say("init_prompt", tasks=named, host=host.text)
    answers.prompt = ask(question, default=choices[0].answer, choices=choices, read=read)


def ask_what_to_change(answers: Answers) -> None:
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


def _population(answers: Answers) -> int:
    from evovlm.runs.before.new_search import population_of

    with TemporaryDirectory(dir=answers.out.parent, prefix=".init-") as scratch:
        new = replace(finished(answers, said=False), candidates=None)
        return population_of(new, Path(scratch) / "search.yaml")


def _fits(answers: Answers, text: str, base: "Opened") -> bool:
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

    with _working(say):
        near = [Choice(text) for text in nearby_models(Path(), sees=sees)]
        zoo = complete_models("zoo:")
        fitting = [
            name for name in zoo if has_vision(read_config(parse_model_ref(name, relative_to=None)) or {}) == sees
        ]
    return [*near, *(Choice(name, say("init_embedded")) for name in fitting)][:_MOST_CHOICES]


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


def _share(text: str) -> float:
    from evovlm.errors import ConfigError

    try:
        share = float(text)
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a share; write a number between 0 and 1, such as 0.5.") from error
    if not 0 < share < 1:
        raise ConfigError(f"{text} is not between 0 and 1; each part needs some of the rows.")
    return share
