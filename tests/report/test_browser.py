"""The page in Debian's chromium: nothing is fetched, no errors are logged, filters work, hostile text is text."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from evovlm.report.comparing import read_runs
from evovlm.report.page import run_page, runs_page
from evovlm.report.reading import read_run
from evovlm.texts.languages import LANGUAGES
from tests.report.made_runs import answer, everyones_answers, keep, make_run, scored
from tests.report.test_page import HOSTILE

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


class Seen(NamedTuple):
    """A page in the browser, what it wrote to the console, and what it asked for."""

    page: Any
    console: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def _open(browser: Any, file: Path, *, width: int = 1280, scheme: str = "light") -> Seen:
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    seen = Seen(page, [], [])
    page.on("console", lambda message: seen.console.append(message.text))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", lambda asked: seen.requests.append(asked.url))
    page.goto(file.as_uri())
    return seen


def _asked_for(seen: Seen, file: Path) -> list[str]:
    return [url for url in seen.requests if url != file.as_uri() and not url.startswith("data:")]


@pytest.fixture(scope="module", params=LANGUAGES)
def hostile_page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose models and data say what would take a page over."""
    folder = tmp_path_factory.mktemp("hostile")
    run = make_run(folder / "run", failed={3})
    tags = frozenset({'"><script>window.hacked=9</script>'})
    answers = [
        answer(number, text, question=text, references=(text,), tags=tags) for number, text in enumerate(HOSTILE)
    ]
    keep(run, {name: scored(answers) for name in everyones_answers()})
    file = folder / "page.html"
    file.write_text(run_page(read_run(run), language=request.param), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def page_file(scored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with everyone's answers."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(run_page(read_run(scored_run), language="en"), encoding="utf-8")
    return file


def test_hostile_texts_stay_texts_in_every_language(browser: Any, hostile_page: Path) -> None:
    seen = _open(browser, hostile_page)
    assert seen.console == []
    assert _asked_for(seen, hostile_page) == []
    assert seen.page.evaluate("window.hacked") is None
    assert seen.page.locator("#answers").is_visible()
    texts = seen.page.locator("#answers tbody tr td:last-child .text bdi").all_text_contents()
    for hostile, text in zip(HOSTILE[:-1], texts, strict=False):
        assert text == hostile
    assert "U+202E" in texts[-1]
    assert "\u202e" not in seen.page.locator("body").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_browser_reports_no_error_and_nothing_overflows(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    seen = _open(browser, page_file, width=width, scheme=scheme)
    assert seen.console == []
    assert _asked_for(seen, page_file) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    ground = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 26, 31)")
    # The figures' colours are those of the page: text has its ink.
    ink = seen.page.evaluate("getComputedStyle(document.body).color")
    assert seen.page.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill") == ink


def test_filters_search_and_order_choose_among_the_answers(browser: Any, page_file: Path) -> None:
    page = _open(browser, page_file).page
    rows = page.locator("#answers tbody tr")

    def shown() -> list[str]:
        ids = [row.locator(".id bdi").first.text_content() for row in rows.all() if row.is_visible()]
        assert page.locator("output").text_content() == f"{len(ids)} of 6 samples"
        return ids

    assert shown() == ["q0", "q1", "q2", "q3", "q4", "q5"]
    page.select_option("select[name=who]", "parent")
    assert shown() == ["q5"]
    page.select_option("select[name=who]", "child")
    page.fill("input[name=find]", "答えは3です")
    assert shown() == ["q2"]
    page.fill("input[name=find]", "")
    page.select_option("select[name=who]", "none")
    assert shown() == []
    page.select_option("select[name=who]", "all")
    page.select_option("select[name=sort]", "child")
    assert shown() == ["q5", "q0", "q1", "q2", "q3", "q4"]
    page.select_option("select[name=sort]", "given")
    assert shown() == ["q0", "q1", "q2", "q3", "q4", "q5"]


def test_many_answers_come_a_few_at_a_time(browser: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    keep(run, {"winner": scored([answer(number, f"答え{number}") for number in range(120)])})
    file = tmp_path / "page.html"
    file.write_text(run_page(read_run(run), language="ja"), encoding="utf-8")
    page = _open(browser, file).page
    rows = page.locator("#answers tbody tr:not([hidden])")
    assert rows.count() == 50
    page.click(".answers button")
    assert rows.count() == 120
    assert not page.locator(".answers button").is_visible()


def test_the_comparison_of_runs_loads_nothing_either(browser: Any, scored_run: Path, bare_run: Path) -> None:
    file = bare_run.parent / "compared.html"
    file.write_text(runs_page(read_runs([scored_run, bare_run]), language="ja"), encoding="utf-8")
    seen = _open(browser, file, width=390)
    assert seen.console == []
    assert _asked_for(seen, file) == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_scripts_every_answer_is_there(browser: Any, page_file: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(page_file.as_uri())
    assert page.locator("#answers tbody tr").count() == 6
    assert page.locator("#answers tbody tr").last.is_visible()
    assert not page.locator(".filters").is_visible()
