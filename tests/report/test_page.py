"""The page of a run."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from evovlm.report.drawing import file_pen
from evovlm.report.page import run_page, shown
from evovlm.report.reading import read_run
from evovlm.texts.languages import LANGUAGES, speaker
from tests.marks import quick_and_slow
from tests.report.made_runs import (
    TASK,
    answer,
    everyones_answers,
    keep,
    make_hybrid_run,
    make_path_run,
    make_run,
    make_trading_run,
    scored,
)

HOSTILE = (
    "<script>window.hacked=1</script>",
    "</style><style>body{display:none}</style>",
    '<img src=x onerror="window.hacked=2">',
    "</script></table></main>",
    "{{ 7*7 }}{% raw %}",
    '" onmouseover="window.hacked=3',
    r"\immediate\write18{touch hacked} $\href{javascript:window.hacked=4}{x}$ \(\unicode{x202e}\)",
    "[x](javascript:window.hacked=5) <svg/onload=window.hacked=6>",
    "\u202egnp.exe\u202c \u2066x\u2069 \x1b[2J\x00",
)


class _Tags(HTMLParser):
    """Notes every element with its attributes, and that each is closed."""

    _VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())


def _tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(html)
    assert parser.open == []
    return parser.found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_says_what_was_found_in_its_language_and_nests_its_elements(
    pages: dict[str, str], language: str
) -> None:
    html = pages[language]
    found = _tags(html)
    assert ("html", {"lang": language}) in found
    texts = LANGUAGES[language]
    for key in ("result", "search", "recipe", "answers", "cost", "equal-weights", "binds"):
        assert texts[key].split("{")[0] in html
    for part in ("83.3", "evovlm evolve", "apache-2.0", "わかりません。", "zoo:math-a"):
        assert part in html
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_loads_nothing_and_runs_its_own_script_alone(pages: dict[str, str]) -> None:
    html = pages["en"]
    found = _tags(html)
    for tag, attributes in found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    policy = next(str(each["content"]) for _, each in found if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    script = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert not any(each.get("http-equiv") == "refresh" for _, each in found)


def test_its_light_colours_are_those_of_figures_in_files_and_every_colour_is_defined(pages: dict[str, str]) -> None:
    html = pages["en"]
    light = dict(re.findall(r"(--[a-z]+(?:-\d)?): (#[0-9a-f]{6})", html.partition("@media")[0]))
    palette = file_pen(speaker("en")).palette
    assert light["--ink"] == palette.ink
    assert tuple(light[f"--series-{number}"] for number in range(len(palette.series))) == palette.series
    used = set(re.findall(r"var\((--[a-z-]+\d?)", html)) - {"--share"}
    assert used <= set(re.findall(r"(--[a-z-]+\d?):", html.partition("@media")[0]))


def test_hostile_texts_of_models_and_data_stay_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<img src=x onerror=alert(1)>", failed={3})
    tags = frozenset({'"><script>alert(1)</script>'})
    answers = [
        answer(number, text, question=text, references=(text,), tags=tags) for number, text in enumerate(HOSTILE)
    ]
    keep(run, {name: scored(answers, name=TASK) for name in everyones_answers()})
    html = run_page(read_run(run), language="ja")
    found = _tags(html)
    assert [tag for tag, _ in found].count("script") == 1
    assert [tag for tag, _ in found].count("style") == 1
    assert not any(tag == "img" for tag, _ in found)
    assert not any(name.startswith("on") for _, attributes in found for name in attributes)
    assert "49" not in re.findall(r"<bdi>([^<]*)</bdi>", html)
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert '<span class="control">U+202E</span>' in html


def test_text_that_turns_the_direction_is_shown_and_not_obeyed() -> None:
    assert shown("a\u202eb") == '<bdi>a<span class="control">U+202E</span>b</bdi>'
    assert shown("1 < 2\n& 3") == "<bdi>1 &lt; 2\n&amp; 3</bdi>"
    assert shown("答え") == '<bdi lang="ja">答え</bdi>'


def test_a_page_is_the_same_bytes_each_time(scored_run: Path, pages: dict[str, str]) -> None:
    assert run_page(read_run(scored_run), language="en") == pages["en"]


def test_a_run_without_answers_says_which_command_has_them_given(bare_run: Path) -> None:
    html = run_page(read_run(bare_run), language="en")
    _tags(html)
    assert f"evovlm report {bare_run} --score" in html
    assert "evolved, math, ja, equal weights are missing" in html
    assert "[weights] &lt;b&gt;are&lt;/b&gt; not finite" in html
    assert "1 of the candidates failed" in html


@pytest.mark.parametrize("language", quick_and_slow(LANGUAGES, quick=1))
def test_samples_that_are_left_out_or_unscored_are_counted_on_the_page(tmp_path: Path, language: str) -> None:
    run = tmp_path / "run"
    make_run(run)
    answers = everyones_answers()
    first, *rest = answers["ja"].answers
    unscored = replace(first, unscored="no picture")
    answers["ja"] = replace(answers["ja"], answers=(unscored, *rest))
    keep(run, {name: replace(task, absent={"the <font> is missing.": 100}) for name, task in answers.items()})
    html = run_page(read_run(run), language=language)
    assert LANGUAGES[language]["absent"].format(n=100, reason="the &lt;font&gt; is missing.") in html
    assert f'<th scope="col" class="number">{LANGUAGES[language]["unscored"]}</th>' in html
    assert html.count('<td class="number">1</td>') >= 1


def test_a_run_of_which_all_candidates_failed_so_far_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", failed={0}, finished=False)
    lines = (run / "journal.jsonl").read_text().splitlines()
    (run / "journal.jsonl").write_text("\n".join(lines[:2]) + "\n")
    content = read_run(run)
    assert content.last.winner is None
    html = run_page(content, language="en")
    _tags(html)
    assert "all of them have failed so far" in html


def test_a_run_whose_models_are_gone_has_a_page_that_says_so(tmp_path: Path) -> None:
    merge = {
        "base": str(tmp_path / "base"),
        "sources": {"math": str(tmp_path / "math"), "ja": str(tmp_path / "ja")},
        "method": "dare_ties",
    }
    for name in ("base", "math", "ja"):
        (tmp_path / name).mkdir()
    run = make_run(tmp_path / "run", merge=merge)
    for name in ("base", "math", "ja"):
        (tmp_path / name).rmdir()
    html = run_page(read_run(run), language="en")
    assert "are no longer on this machine" in html
    assert "Not checked, because" in html
    assert "zoo:" not in html


@pytest.mark.parametrize("language", quick_and_slow(LANGUAGES, quick=1))
def test_a_search_through_layers_has_a_page_with_its_route(tmp_path: Path, language: str) -> None:
    content = read_run(make_path_run(tmp_path / "run"))
    assert content.last.path is not None
    assert (content.last.numbers, content.last.chosen) == ((), {})
    html = run_page(content, language=language)
    _tags(html)
    texts = LANGUAGES[language]
    assert texts["path_title"] in html
    assert texts["path_text"].format(hops=len(content.last.path), blocks=len(content.last.path.blocks)) in html
    assert texts["kind_snapshot"] in html


@pytest.mark.parametrize("language", quick_and_slow(LANGUAGES, quick=1))
def test_a_hybrid_has_a_page_with_both_of_its_stages(tmp_path: Path, language: str) -> None:
    content = read_run(make_hybrid_run(tmp_path / "run"))
    assert content.finished
    first, last = content.stages
    assert (first.name, last.name) == ("ps", "path")
    assert first.numbers
    assert first.path is None
    assert last.path is not None
    assert "ps" in last.path.sources
    assert set(content.unscored) == {"winner", "ps", "math", "ja", "equal-weights"}
    html = run_page(content, language=language)
    _tags(html)
    texts = LANGUAGES[language]
    for key in ("stage_ps", "stage_path", "path_title", "lines_weight", "chosen_on"):
        assert escape(texts[key]) in html


@pytest.mark.parametrize("language", quick_and_slow(LANGUAGES, quick=1))
def test_goals_constraints_races_and_choices_are_on_the_page(tmp_path: Path, language: str) -> None:
    run = make_trading_run(tmp_path / "run")
    (run / "result.json").write_text('{"peak_memory_bytes": {"process": 1500000000, "gpu": 2000000000}}')
    html = run_page(read_run(run), language=language)
    _tags(html)
    texts = LANGUAGES[language]
    for key in ("front_text", "rescored_text", "constraints", "parents_alone", "chosen", "phase_parents", "breaks_yes"):
        assert escape(texts[key]) in html, key
    assert f"evovlm export {run} --pick CANDIDATE --out recipe.yaml" in html
    assert texts["stop_candidates"].format(bound=32) in html
    assert texts["bars_epsilon"] in html
    memory = texts["comma"].join(
        texts[f"memory_{place}"].format(size=size) for place, size in (("process", "1.5"), ("gpu", "2"))
    )
    assert texts["peak_memory"].format(listed=memory) in html


def test_few_confused_names_are_a_table_and_right_ones_differ_by_more_than_colour(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    named = [answer(each, "桜", score=float(each < 3), references=("桜" if each < 3 else "梅",)) for each in range(6)]
    keep(run, {"winner": scored(named, metric="rouge_l_ja")})
    html = run_page(read_run(run), language="en")
    _tags(html)
    assert '<td class="hit" style="--share: 1.00">3</td>' in html
    assert '<td class="miss" style="--share: 1.00">3</td>' in html


@pytest.mark.slow
def test_a_page_of_a_large_run_stays_below_8_mb(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        n_samples=200,
        budget={"candidates": 1000},
        optimizer={"kind": "cma", "population": 10},
        merge={
            "base": "zoo:base",
            "sources": {"math": "zoo:math-a", "more": "zoo:math-b", "ja": "zoo:ja"},
            "method": "dare_ties",
        },
    )
    long = "この問題では、まず花の数を足し、それから人数で割ります。" * 50
    everyone = scored([answer(number, f"{number}: {long}") for number in range(200)])
    keep(run, dict.fromkeys(("winner", "math", "more", "ja", "equal-weights"), everyone))
    content = read_run(run)
    assert len(content.last.course.candidates) == 1000
    assert sum(len(each.lines) * len(each.units) for each in content.last.numbers) == 48
    html = run_page(content, language="ja")
    assert len(html.encode()) < 8_000_000
    assert content.reports[0].cut == 1000
