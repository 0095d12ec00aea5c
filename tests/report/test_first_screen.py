"""What the page says first: the strongest rival, noise, the search's own score, and how far a run is."""

import http.client
from dataclasses import replace
from pathlib import Path

import pytest

from evovlm.recipes.candidate import Genome
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.report.comparing import read_runs
from evovlm.report.loopback import serving
from evovlm.report.page import run_page, runs_page
from evovlm.report.reading import read_run
from evovlm.report.watching import ServedFile
from evovlm.runs.folder.layout import locked
from evovlm.runs.run import Run
from evovlm.tasks.metrics.scoring import Answer, Sent
from tests.report.made_runs import TASK, answer, everyones_answers, keep, make_run, scored

pytestmark = pytest.mark.usefixtures("undrawn")


def _right(*numbers: int, n: int = 6, unscored: int = 0) -> list[Answer]:
    found = [answer(each, str(each + 1), score=float(each in numbers)) for each in range(n)]
    return [replace(each, unscored="no number found") if each.sample.id < f"q{unscored}" else each for each in found]


def test_the_headline_names_the_strongest_model_that_was_not_evolved(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    answers = everyones_answers()
    keep(run, {**answers, "equal-weights": scored(_right(0, 1, 2, 3))})
    html = run_page(read_run(run), language="en")
    # The best parent has one right answer of six, equal weights have four, the winner five.
    assert "compared with equal weights, the best model that was not evolved" in html
    assert "+16.7 points" in html
    assert "The interval includes 0: the difference is within noise." in html


def test_a_clear_difference_is_not_called_noise(pages: dict[str, str]) -> None:
    assert "within noise" not in pages["en"]
    assert "誤差の範囲内" not in pages["ja"]


def test_the_winner_of_a_random_search_is_a_rival(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "scores").mkdir()
    recipe = Run.open(run).candidates[3].recipe
    (run / "scores" / "random.yaml").write_text(recipe_to_yaml(recipe, folder=run / "scores"), encoding="utf-8")
    keep(run, {**everyones_answers(), "random": scored(_right(0, 1, 2))})
    assert "compared with random search, the best" in run_page(read_run(run), language="en")
    assert "最良のランダム探索との差" in run_page(read_run(run), language="ja")


def test_the_search_s_own_score_and_unscored_answers_are_said_beside_the_report_score(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    keep(run, {**everyones_answers(), "winner": scored(_right(3, 4, 5, unscored=2))})
    html = run_page(read_run(run), language="en")
    found = Run.open(run).fitness
    assert found is not None
    assert found > 0.5
    assert f"In the search the winner scored {100 * found:.1f}; on the report split" in html
    assert "it scores 50.0. A winner is chosen for its search score" in html
    assert "2 of 6 answers of the winner could not be scored, and count 0." in html


def _begun(folder: Path, *, n: int) -> Path:
    run = make_run(folder)
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(lines[: n + 1]))
    return run


def test_a_running_search_shows_how_far_it_is(tmp_path: Path) -> None:
    run = _begun(tmp_path / "run", n=8)
    with locked(run):
        content = replace(read_run(run), seconds=80.0)
    stage = replace(content.last, seconds=80.0)
    html = run_page(replace(content, stages=(stage,)), language="en")
    best = max(each.evaluation.fitness for each in Run.open(run).journal.candidates if each.evaluation)
    first = html[: html.index('id="search"')]
    assert content.state == "running"
    for part in (
        f"<strong>{100 * best:.1f}</strong>",
        "8 of 12 candidates",
        "about 40 s left",
        "Fitness by generation",
    ):
        assert part in first
    assert "--resume" not in first
    # It cannot be scored yet.
    assert "--score" not in first
    assert "they overestimate the winner" in first


def test_a_stopped_search_says_so_with_the_command_that_continues_it(tmp_path: Path) -> None:
    run = _begun(tmp_path / "run", n=5)
    html = run_page(read_run(run), language="ja")
    first = html[: html.index('id="search"')]
    assert "に停止" in first
    assert f"evovlm evolve {run / 'config.yaml'} --out {run} --resume" in first
    assert "残り" not in first


def test_a_finished_search_without_scores_says_what_is_missing(bare_run: Path) -> None:
    html = run_page(read_run(bare_run), language="en")
    assert "has not been scored on the report split yet" in html
    assert "No report yet" not in html


def test_a_mean_that_is_worse_than_the_best_candidate_never_stands_alone(tmp_path: Path) -> None:
    coming = iter([0.75, *[0.0] * 30])
    run = make_run(tmp_path / "run", winner="mean", fitness=lambda _: next(coming))
    assert Run.open(run).fitness == 0
    html = run_page(read_run(run), language="en")
    assert "The winner is the mean of the distribution, with a fitness of 0.0" in html
    assert "The best candidate had 75.0." in html


def test_ties_are_counted(tmp_path: Path) -> None:
    def fitness(genome: Genome) -> float:
        return 0.5

    assert "Further candidates with the same fitness as the best one: 11. The first" in run_page(
        read_run(make_run(tmp_path / "run", fitness=fitness)), language="en"
    )


def test_each_candidate_can_be_opened(scored_run: Path) -> None:
    html = run_page(read_run(scored_run), language="en")
    candidates = Run.open(scored_run).candidates
    assert html.count("kind: parameter_merge") == len(candidates)
    assert "generating 2.00 s" in html
    assert f"genome {candidates[0].entry.genome[0]:.4g} " in html


def test_a_score_between_0_and_1_has_no_tick(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    halves = [answer(each, "山", score=0.5) for each in range(4)]
    keep(run, {"winner": scored(halves, metric="rouge_l_ja")})
    html = run_page(read_run(run), language="en")
    assert '<span class="mark">50.0</span>' in html
    assert "✓" not in html[html.index('id="answers"') :].partition("<script>")[0]


def test_runs_that_must_not_be_compared_have_no_common_figure(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", tasks=[{"name": TASK, "limit": 4}])
    html = runs_page(read_runs([first, second]), language="en")
    assert "<figure>" not in html
    assert f"evovlm report {first} {second} --score" in html
    both = read_runs([first, make_run(tmp_path / "c", seed=8)])
    html = runs_page(both, language="en")
    for run in both.runs:
        assert f"{100 * run.last.course.points[-1].best_so_far:.1f}" in html


@pytest.mark.parametrize("begun", [False, True])
def test_the_page_of_a_run_in_progress_is_served_and_takes_nothing(tmp_path: Path, begun: bool) -> None:
    page = tmp_path / "page.html"
    if begun:
        page.write_text("<p>探索</p>", encoding="utf-8")
    with serving(ServedFile(page)) as address:
        host, path = address.removeprefix("http://").split("/", 1)
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("POST", f"/{path}", "x=1")
        assert connection.getresponse().read() == b""
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", f"/{path}")
        text = connection.getresponse().read().decode()
    assert text == "<p>探索</p>" if begun else 'http-equiv="refresh"' in text


def test_the_prompt_as_sent_and_the_length_of_each_answer_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    cut = Sent(prompt="<s>問題：<b>1に1を足すと？", tokens=64, cut=True)
    whole = replace(cut, tokens=7, cut=False)
    keep(
        run,
        {
            "winner": scored([replace(answer(0, "2"), sent=whole)]),
            "ja": scored([replace(answer(0, "わかりません", score=0.0), sent=cut)]),
        },
    )
    html = run_page(read_run(run), language="en")
    assert html.count("&lt;s&gt;問題：&lt;b&gt;1に1を足すと？") == 1
    assert "7 tokens<" in html
    assert "64 tokens, cut at the limit" in html
