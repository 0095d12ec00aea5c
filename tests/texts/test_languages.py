"""The texts in each language, and the choice of a language."""

import re

import pytest

from evovlm.errors import ConfigError
from evovlm.texts.languages import LANGUAGES, Phrase, chosen_language, speaker


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


def test_a_phrase_inside_a_phrase_is_said_in_the_same_language() -> None:
    phrase = Phrase("licence_binds", {"model": "a", "licence": "cc0-1.0", "why": Phrase("terms_free", {})})
    assert str(phrase) == "a is under cc0-1.0: no conditions; the merge inherits it."
    assert phrase.said(speaker("ja")) == "a のライセンスは cc0-1.0 です（条件なし）。マージしたモデルにも適用されます。"


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja"}, "ja"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_MESSAGES": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ja_JP.eucJP"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_MESSAGES": "ja_JP.UTF-8", "LC_ALL": "POSIX"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "", "LC_ALL": "ja_JP@x"}, "ja"),
    ],
)
def test_the_environment_chooses_the_language_that_is_not_given(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], language: str
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert chosen_language("") == language
    assert (chosen_language("ja"), chosen_language("en")) == ("ja", "en")
    with pytest.raises(ConfigError, match="--lang de: unknown language"):
        chosen_language("de")
