"""The page's words in each language; every language has every key. `{name}` is a placeholder."""

from collections.abc import Mapping
from typing import Protocol

from evovlm.errors import ConfigError
from evovlm.report.texts_en import ENGLISH
from evovlm.report.texts_ja import JAPANESE

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "ja": JAPANESE}


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
        return texts[key].format(**values)

    return say
