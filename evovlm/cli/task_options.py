"""The options that say how tasks are asked, decoded and scored, and the settings that they mean."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from evovlm.cli.rendering import as_typed

if TYPE_CHECKING:
    from evovlm.tasks.decoding import DecodingChanges
    from evovlm.tasks.prompts import ChatSettings, TemplateValue
    from evovlm.tasks.task import TaskSettings

Reasoning = Annotated[
    str | None,
    typer.Option(
        "--reasoning",
        help="What marks a thought, which is not scored: auto (the model's chat template and vocabulary say it), think "
        "(tags), harmony (channels), none, or the two texts around it: '<a>,</a>'.",
    ),
]
System = Annotated[str | None, typer.Option("--system", help="The system message of the prompt `chat`.")]
ChatTemplate = Annotated[
    bool,
    typer.Option("--apply-chat-template", help="Use the model's chat template: like --prompt chat, any task."),
]
TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--chat-template-args",
        help="Values that the model's chat template reads: enable_thinking=false, or a JSON object; may be repeated.",
    ),
]
ThinkEnd = Annotated[
    str | None,
    typer.Option(
        "--think-end-token", help="The text (in a task of the harness also the token's number) that ends a thought."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0, max=100, help="Draw answers at this temperature; 0: the most likely ones."),
]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=0, max=1, help="Draw from the fewest tokens that have this share.")
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=0, max=10**6, help="Draw from this many of the likeliest tokens; 0: all.")
]
DrawSeed = Annotated[int | None, typer.Option("--seed", help="The seed of the draws.")]
Repeats = Annotated[
    int | None, typer.Option("--repeats", min=1, max=1000, help="Answer each sample this many times; the mean counts.")
]


_SAID = {"like": "{} decoding", "max_new_tokens": "at most {} tokens", "repeats": "{} repeats"}


def chat_settings(system: str | None, template: list[str] | None) -> "ChatSettings | None":
    """Return what fills the chat template; None where nothing is said. Raises ConfigError for unreadable values."""
    from evovlm.recipes.problems import validated
    from evovlm.tasks.prompts import ChatSettings

    if system is None and not template:
        return None
    values: dict[str, TemplateValue] = {}
    for text in template or []:
        values |= _values(text, option="--chat-template-args")
    return validated(ChatSettings, {"system": system, "template": values}, where="--chat-template-args")


def prompt_setting(prompt: str | None, *, apply_chat_template: bool) -> str | None:
    """Return the prompt that replaces the tasks' own. Raises ConfigError for another one than `chat` with the flag."""
    from evovlm.errors import ConfigError
    from evovlm.tasks.prompts import CHAT

    if not apply_chat_template:
        return prompt
    if prompt not in (None, CHAT):
        raise ConfigError(f"--apply-chat-template asks by the prompt `chat`, and --prompt is {prompt}. Leave one out.")
    return CHAT


def decoding_changes(decoding: str | None, **given: "int | float | None") -> "DecodingChanges | None":
    """Return what is changed of the tasks' decoding: by `decoding`, a name or a JSON object, and by single values.

    None where nothing is said. Raises ConfigError for a bad value.
    """
    from evovlm.recipes.problems import validated
    from evovlm.tasks.decoding import DecodingChanges

    values: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if decoding is not None:
        values = {
            **(_values(decoding, option="--decoding") if decoding.lstrip().startswith("{") else {"like": decoding}),
            **values,
        }
    return validated(DecodingChanges, values, where="decoding") if values else None


def reasoning_setting(reasoning: str | None, think_end: str | None) -> "str | tuple[str, str] | None":
    """Return what marks a thought. Raises ConfigError for two settings, TaskError for an unknown one."""
    from evovlm.errors import ConfigError
    from evovlm.thoughts import parse_reasoning

    if reasoning is not None and think_end is not None:
        raise ConfigError("--reasoning and --think-end-token both say what ends a thought. Leave one of them out.")
    if think_end is not None:
        return parse_reasoning(f",{think_end}")
    return None if reasoning is None else parse_reasoning(reasoning)


def described(settings: "TaskSettings") -> str:
    """Return the settings in a few words, as they are shown after a task's name; empty without any."""
    parts = []
    changes = settings.get("decoding")
    if changes is not None:
        parts += [_SAID.get(key, f"{key} {{}}").format(value) for key, value in changes.given.items()]
    if settings.get("prompt") is not None:
        parts.append(f"prompt {as_typed(str(settings['prompt']))}")
    chat = settings.get("chat")
    if chat is not None:
        parts += ["a system message"] if chat.system is not None else []
        parts += [f"{name}={json.dumps(value)}" for name, value in chat.template.items()]
    return "".join(f", {part}" for part in parts)


def arguments_of(settings: "TaskSettings") -> list[str]:
    """Return the arguments of `score` that mean these settings."""
    from evovlm.thoughts import reasoning_text

    prompt, chat, reasoning = settings.get("prompt"), settings.get("chat"), settings.get("reasoning")
    decoding = settings.get("decoding")
    options = {
        "--prompt": None if prompt is None else as_typed(prompt),
        "--extractor": settings.get("extractor"),
        "--gate": settings.get("gate"),
        "--decoding": json.dumps(dict(decoding.given), ensure_ascii=False) if decoding and decoding.given else None,
        "--system": None if chat is None else chat.system,
        "--chat-template-args": json.dumps(chat.template, ensure_ascii=False) if chat and chat.template else None,
        "--reasoning": None if reasoning is None else reasoning_text(reasoning),
    }
    return [part for option, value in options.items() if value is not None for part in (option, value)]


def _values(text: str, *, option: str) -> "Mapping[str, TemplateValue]":
    from evovlm.errors import ConfigError
    from evovlm.foreign_json import parse_json

    try:
        if text.lstrip().startswith("{"):
            found = parse_json(text)
            return found if isinstance(found, dict) else {}
        pairs = [part.partition("=") for part in text.split(",")]
        if not all(name.strip() and sign for name, sign, _ in pairs):
            raise ValueError("it has no `=`")
        return {name.strip(): _value(value.strip()) for name, _, value in pairs}
    except ValueError as error:
        raise ConfigError(
            f"{option} {text}: cannot be read ({error}). Write KEY=VALUE, as enable_thinking=false, or a JSON object."
        ) from error


def _value(text: str) -> "TemplateValue":
    from evovlm.foreign_json import parse_json

    try:
        found = parse_json(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
    return found if found is None or isinstance(found, (bool, int, float, str)) else text
