"""The page's words."""

import re

import pytest

from evovlm.errors import ConfigError
from evovlm.report.texts import LANGUAGES, speaker


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_texts_with_the_same_gaps(language: str) -> None:
    english, texts = LANGUAGES["en"], LANGUAGES[language]
    assert list(texts) == list(english)
    for key, text in texts.items():
        assert text.strip(), key
        assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", english[key])), key


def test_texts_are_filled_in_as_they_are() -> None:
    assert speaker("en")("report_on", title="{x} <b>") == "Report on {x} <b>"
    assert speaker("ja")("report_on", title="run") == "run のレポート"


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"--lang fr: unknown language\. Choose en or ja"):
        speaker("fr")
