"""README.ja.md in step with README.md: the same sections, commands, tables, figures and links."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
JAPANESE = re.compile("[ぁ-ヿ一-鿿]")
NUMBERS = {word: str(number) for number, word in enumerate(("one", "two", "three", "four", "five", "six"), start=1)}


@pytest.fixture(scope="module")
def english() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def japanese() -> str:
    return (ROOT / "README.ja.md").read_text(encoding="utf-8")


def headings(text: str) -> list[str]:
    """Return how deep each heading is, in order."""
    return re.findall(r"^(#+) ", BLOCK.sub("", text), flags=re.MULTILINE)


def code_of(text: str) -> list[list[str] | Counter[str]]:
    """Return the lines of each block without comments; of what the demo prints, in either language, the figures."""
    return [
        numbers(lines)
        if lines.startswith(" ")
        else [re.split(r"\s+# ?", line)[0].rstrip() for line in lines.splitlines()]
        for _, lines in BLOCK.findall(text)
    ]


def sections(text: str) -> list[str]:
    """Return the prose of each section, without blocks and links' targets."""
    prose = re.sub(r"\]\([^)]*\)", "]", BLOCK.sub("", text))
    return re.split(r"^## .*$", prose, flags=re.MULTILINE)


def numbers(text: str) -> Counter[str]:
    """Return the numbers of a text, also those that it spells out, each as often as it is there."""
    plain = text
    for word, number in {**NUMBERS, "ten": "10"}.items():
        plain = re.sub(rf"\b{word}\b", number, plain, flags=re.IGNORECASE)
    return Counter(found.replace(",", "") for found in NUMBER.findall(plain))


def test_sections_are_the_same(english: str, japanese: str) -> None:
    assert headings(japanese) == headings(english)


def test_commands_and_examples_are_the_same_without_their_comments(english: str, japanese: str) -> None:
    assert code_of(japanese) == code_of(english)


def test_figures_of_each_section_are_the_same(english: str, japanese: str) -> None:
    pairs = list(zip(sections(english), sections(japanese), strict=True))
    assert len(pairs) > 10
    for ours, theirs in pairs:
        # A number of one digit may be a word in one of the languages ("a source", "twice"); any other never is.
        written, expected = ({key: n for key, n in numbers(each).items() if len(key) > 1} for each in (theirs, ours))
        assert written == expected, theirs[:60]
        assert set(numbers(theirs)) - {"1"} <= set(numbers(ours)), theirs[:60]


def test_tables_have_the_same_shape(english: str, japanese: str) -> None:
    def shape(text: str) -> list[int]:
        return [line.count(" |") for line in BLOCK.sub("", text).splitlines() if line.startswith("|")]

    assert shape(japanese) == shape(english)


def test_links_are_the_same(english: str, japanese: str) -> None:
    def targets(text: str) -> Counter[str]:
        return Counter(re.findall(r"\]\(([^)]+)\)", text)) - Counter(["README.md", "README.ja.md"])

    assert targets(japanese) == targets(english)


def test_every_paragraph_is_japanese(japanese: str) -> None:
    for paragraph in re.split(r"\n\n+", BLOCK.sub("", japanese)):
        if paragraph.strip() and not paragraph.startswith("#"):
            assert JAPANESE.search(paragraph), paragraph
