"""What the report page, `init` and `demo` say in each language; every language has every key.

`{name}` is a placeholder. Messages about errors are English in every language, so that people can search for them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from evovlm.errors import ConfigError
from evovlm.texts import english, japanese

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": english.TEXTS, "ja": japanese.TEXTS}
_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")


class Say(Protocol):
    """Gives the texts of one language."""

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of a key, with its placeholders filled in."""
        ...


def speaker(language: str) -> Say:
    """Return what gives the texts of a language. Raises ConfigError for an unknown one."""
    texts = LANGUAGES.get(language)
    if texts is None:
        raise ConfigError(f"--lang {language}: unknown language. Choose {' or '.join(LANGUAGES)}.")

    def say(key: str, **values: object) -> str:
        filled = {name: value.said(say) if isinstance(value, Phrase) else value for name, value in values.items()}
        return texts[key].format(**filled)

    return say


ENGLISH: Say = speaker("en")
"""What gives the English texts."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A text before its language is known: its key, and the values of its placeholders; `str` is the English text."""

    key: str
    values: Mapping[str, object]

    def said(self, say: Say) -> str:
        """Return it in a language."""
        return say(self.key, **self.values)

    def __str__(self) -> str:
        return self.said(ENGLISH)


def described(task: str, english: str, *, language: str) -> str:
    """Return what a task of the catalogue is, in a language; in English where a package has added the task."""
    return japanese.TASKS.get(task, english) if language == "ja" else english


def chosen_language(given: str) -> str:
    """Return the language that was given, or that of the environment (LC_ALL, LC_MESSAGES, LANG) if it is empty.

    Raises ConfigError for an unknown one; an environment without a known language means English.
    """
    if given:
        speaker(given)
        return given
    locale = next(filter(None, map(os.environ.get, _VARIABLES)), "")
    language = re.split(r"[_.@-]", locale)[0].lower()
    return language if language in LANGUAGES else "en"
