"""The page's words in each language; every language has every key. `{name}` stands for what is filled in."""

from collections.abc import Mapping
from typing import Protocol

from evovlm.errors import ConfigError
from evovlm.report.texts_en import ENGLISH
from evovlm.report.texts_ja import JAPANESE

LANGUAGES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "ja": JAPANESE}


class Say(Protocol):
    """Says a text of one language."""

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of that key, filled in."""
        ...


def speaker(language: str) -> Say:
    """Return who says texts in a language. Raises ConfigError for one that there is not."""
    texts = LANGUAGES.get(language)
    if texts is None:
        raise ConfigError(f"--lang {language}: there is only {' and '.join(LANGUAGES)}.")

    def say(key: str, **values: object) -> str:
        return texts[key].format(**values)

    return say
