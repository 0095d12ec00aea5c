"""Every state of the page in Japanese: no English sentence is left, except messages and texts of models and data."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evovlm.recipes.low_score import LowScore
from evovlm.report.comparing import read_runs
from evovlm.report.content import RunContent
from evovlm.report.page import WORDS, run_page, runs_page, worded
from evovlm.report.reading import read_run
from evovlm.texts.languages import speaker
from tests.marks import quick_and_slow
from tests.report.made_runs import make_hybrid_run, make_path_run, make_run, make_trading_run

SENTENCE = re.compile("[A-Za-z]{2,} [A-Za-z]{2,}")
SPOKEN = ("alt", "placeholder", "aria-label", "title", "data-shown", "data-label")
STATES: Mapping[str, Callable[[Path], Path]] = {
    "unscored": lambda folder: make_run(folder, failed={5}),
    "stopped": lambda folder: make_run(folder, finished=False),
    "front": make_trading_run,
    "path": make_path_run,
    "hybrid": make_hybrid_run,
}


class _Texts(HTMLParser):
    """Collects what a reader sees or hears, without code, messages in English, and answers."""

    _ALONE = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._left_out: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [value for name, value in given.items() if name in SPOKEN and value]
        if tag not in self._ALONE:
            quoted = tag in ("script", "style", "pre", "code") or given.get("class") == "text"
            self._left_out.append(quoted or (tag != "html" and given.get("lang") == "en"))

    def handle_endtag(self, tag: str) -> None:
        self._left_out.pop()

    def handle_data(self, data: str) -> None:
        if not any(self._left_out):
            self.found.append(data)


def english_of(html: str) -> list[str]:
    """Return the texts of a page with two English words in a row, apart from commands and an optimizer's settings."""
    texts = _Texts()
    texts.feed(html)
    shown = [re.sub("`[^`]*`", "", text) for text in texts.found]
    return [text for text in shown if SENTENCE.search(text)]


def test_a_low_score_and_the_columns_of_the_table_are_explained_as_they_are(content: RunContent) -> None:
    low = LowScore(n=6, nothing=0, not_japanese=0, cut=0, max_new_tokens=8, unscored={}, prompt="1+1?", answer="3")
    reports = tuple(replace(report, low=low, gate=None) for report in content.reports)
    page = run_page(replace(content, reports=reports), language="ja")
    assert "進化モデル のスコアが低い理由：回答 6 件はどれも最後まで書かれていますが" in page
    assert "「言語判定なし」は" not in page
    assert "「言語判定なし」は" in run_page(content, language="ja")


@pytest.mark.parametrize("state", quick_and_slow(STATES, quick=1))
def test_a_page_has_no_english_sentence(state: str, tmp_path: Path) -> None:
    run = STATES[state](tmp_path / "run")
    assert english_of(run_page(read_run(run), language="ja", reload_s=5)) == []
    assert english_of(run_page(read_run(run), language="en"))


def test_the_page_of_a_scored_run_has_no_english_sentence(pages: dict[str, str]) -> None:
    assert english_of(pages["ja"]) == []
    assert "正解率、数値の抽出 robust、言語判定 script" in pages["ja"]
    assert "apache-2.0 です（著作権表示の保持が必要）。" in pages["ja"]
    assert "McNemar の正確検定" in pages["ja"]


def test_the_page_that_compares_runs_has_no_english_sentence(scored_run: Path, bare_run: Path) -> None:
    assert english_of(runs_page(read_runs([scored_run, bare_run]), language="ja")) == []


def test_words_that_runs_record_are_the_same_in_english() -> None:
    assert {word: worded(word, speaker("en")) for word in WORDS} == {word: word for word in WORDS}
    assert all(worded(word, speaker("ja")) != word for word in WORDS)
    assert worded("evaluate failed: x", speaker("ja")) == "evaluate failed: x"
