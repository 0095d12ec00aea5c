"""Questions on a terminal: numbered choices, an answer that is checked at once, and asked again if it does not do."""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import typer

from evovlm.cli.rendering import echo
from evovlm.errors import EvovlmError

_Found = TypeVar("_Found")


class Choice(NamedTuple):
    """One of the answers that are listed, and a remark on it."""

    answer: str
    about: str = ""


def ask(
    question: str,
    *,
    default: str,
    choices: Sequence[Choice],
    read: Callable[[str], _Found],
    label: str | None = None,
    checking: str = "",
) -> _Found:
    """Ask until `read` takes the answer, and return what it makes of it; a number means the choice of that number.

    Nothing means the `default`, which is shown as `label`. What `read` raises as an EvovlmError is shown, and the
    question is asked again; `checking` is shown while `read` takes long. Raises Abort at the end of the input.
    """
    from evovlm.cli.progress import Waiting

    _show(choices)
    while True:
        # Questions go where results do not.
        echo(f"{question} [{label or default}]: ", nl=False, err=True)
        answer = sys.stdin.readline()
        if not answer:
            raise typer.Abort
        text = answer.strip() or default
        if text.isdecimal() and 0 < int(text) <= len(choices):
            text = choices[int(text) - 1].answer
        try:
            with Waiting(checking):
                return read(text)
        except EvovlmError as error:
            echo(f"  {error}", err=True)


def ask_each(
    question: str,
    *,
    defaults: Sequence[str],
    choices: Sequence[Choice],
    read: Callable[[str], str],
    end: str,
    checking: str = "",
) -> list[str]:
    """Ask until nothing is answered, and return what `read` makes of the answers; nothing at first means `defaults`.

    Later, what nothing means is shown as `end`.
    """
    found: list[str] = []

    def read_one(text: str) -> list[str] | str:
        # Nothing was answered: the end, or the defaults.
        return read(text) if text else found or [read(each) for each in defaults]

    while True:
        label = end if found else " ".join(defaults)
        shown = () if found else choices
        answer = ask(question, default="", label=label, choices=shown, read=read_one, checking=checking)
        if not isinstance(answer, str):
            return answer
        found.append(answer)


def _show(choices: Sequence[Choice]) -> None:
    width = len(str(len(choices)))
    for number, choice in enumerate(choices, start=1):
        echo(f"  {number:{width}}  {choice.answer}{f'  ({choice.about})' if choice.about else ''}", err=True)
