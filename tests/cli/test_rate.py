"""`rate`: answers compared blind, in the terminal and on the page; the journal; the preferred candidate taken."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest

from evovlm.cli.rendering import percent
from evovlm.report.page import run_page
from evovlm.report.rating_page import RatingPage
from evovlm.report.reading import read_run
from evovlm.runs.folder.ratings import Choice, Ratings, ratings_file
from evovlm.runs.run import Run
from evovlm.runs.scores.contest import Contest, contest_of_run
from tests.cli.conftest import TASK, Command


def _contest(run: Path) -> Contest:
    return contest_of_run(Run.open(run), task=None, n_candidates=3, n_samples=4)


@pytest.fixture(scope="session")
def answered_once(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose candidates have answered; only read."""
    run = shutil.copytree(finished_once / "run", tmp_path_factory.mktemp("answered") / "run")
    _contest(run)
    ratings_file(run).unlink()
    return run


@pytest.fixture
def finished(answered_once: Path, tmp_path: Path) -> Path:
    """A copy of that run to change as one likes."""
    return shutil.copytree(answered_once, tmp_path / "run")


def _type(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))


def test_choices_are_kept_and_the_preferred_candidate_is_taken(
    evovlm: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = evovlm("export", finished, "--pick", "rated")
    assert refused.code == 2
    assert "nobody has compared candidates" in refused.err
    contest = _contest(finished)
    n = contest.question("ann").n
    assert n >= 3
    favourite = max(contest.names)
    # The person knows which one to prefer; the sides are drawn anew for each question.
    while (question := contest.question("ann")) is not None:
        sides = {"left": question.left, "right": question.right}
        chosen = next((side for side, key in sides.items() if key == favourite), "tie")
        _type(monkeypatch, {"left": "1", "right": "2", "tie": "0"}[chosen])
        found = evovlm("rate", finished, "--top", "3", "--samples", "4", "--as", "ann")
        assert found.code == 0, found.err
        assert f"Comparison {question.number} of {n}" in found.out
        assert contest.names[question.left] not in found.out.partition("strength")[0]
        contest = _contest(finished)
    result = json.loads(evovlm("rate", finished, "--top", "3", "--samples", "4", "--json").out)
    assert result["strengths"][0]["key"] == favourite
    assert sum(each["n"] for each in result["strengths"]) == 2 * n
    taken = json.loads(evovlm("export", finished, "--pick", "rated", "--json").out)
    assert taken["recipe_id"] == favourite


def test_a_run_that_was_moved_keeps_its_answers_and_its_ratings(
    evovlm: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _type(monkeypatch, "1")
    assert evovlm("rate", finished, "--top", "3", "--samples", "4").code == 0
    moved = shutil.move(finished, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    found = evovlm("rate", "elsewhere", "--top", "3", "--samples", "4", "--json")
    assert found.code == 0, found.err
    assert sum(each["n"] for each in json.loads(found.out)["strengths"]) == 2
    assert len(Ratings.read(ratings_file(Path(moved))).choices) == 1


def test_a_choice_is_taken_back_and_the_question_asked_again(
    evovlm: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, "12u?u0q1")
    found = evovlm("rate", finished, "--top", "3", "--samples", "4", "--as", "ann", "--lang", "ja")
    assert found.code == 0, found.err
    assert [choice.chosen for choice in Ratings.read(ratings_file(finished)).choices] == ["tie"]
    assert re.findall(r"比較 (\d+) /", found.out) == ["1", "2", "3", "2", "1", "2"]


def test_people_get_the_same_questions_and_their_agreement_is_shown(
    evovlm: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contest = _contest(finished)
    for rater in ("ann", "bob"):
        for _ in range(2):
            question = contest.question(rater)
            assert question is not None
            first = min(question.left, question.right)
            chosen = "left" if first == question.left else "right"
            contest.ratings.append(question.choice(chosen, rater=rater, task=contest.task))
    _type(monkeypatch, "")
    found = evovlm("rate", finished, "--top", "3", "--samples", "4", "--results")
    assert "ann and bob agree on 100.0 % of 2 comparisons." in found.out


@pytest.mark.parametrize("form", ["--results", "--json"])
def test_looking_at_the_strengths_neither_computes_nor_writes(
    evovlm: Command, finished_once: Path, tmp_path: Path, form: str
) -> None:
    run = shutil.copytree(finished_once / "run", tmp_path / "run")
    before = sorted(run.rglob("*"))
    found = evovlm("rate", run, form)
    assert found.code == 0, found.err
    if form == "--json":
        assert json.loads(found.out) == {"task": TASK, "strengths": [], "agreement": []}
    else:
        assert found.out == "no comparison has been made yet\n"
    assert sorted(run.rglob("*")) == before


def test_two_models_are_compared(
    evovlm: Command, models: Path, problems: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = problems.with_name(f"{TASK}.yaml")
    out = tmp_path / "ratings"
    arguments = ["rate", models / "math", models / "ja", "--task", task, "--samples", "3", "--out", out]
    _type(monkeypatch, "12")
    found = evovlm(*arguments)
    assert found.code == 0, found.err
    result = json.loads(evovlm(*arguments, "--json").out)
    assert {each["model"] for each in result["strengths"]} == {str(models / "math"), str(models / "ja")}
    assert len(Ratings.read(out / "ratings.jsonl").choices) == 2
    other = evovlm(*arguments, "--prompt", "{input}=")
    assert other.code == 2
    assert "prompt" in other.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["zoo:ja"], "is not a folder; name the folder of a run, or two models"),
        (["zoo:ja", "zoo:math-a"], "--task is missing"),
        (["zoo:ja", "zoo:ja", "--task", "word_problems_ja"], "named twice"),
        (["RUN", "--task", "emoji_ja"], "does not search with this task"),
        (["RUN", "--out", "x"], "Leave --out out"),
        (["RUN", "--prompt", "jsvlm"], "Leave --prompt out"),
        (["zoo:ja", "zoo:math-a", "--task", "word_problems_ja", "--prompt", "jsvlmm"], "jsvlmm"),
        (["RUN", "--as", "a\x1bb"], "is not a name"),
        (["RUN", "--as", "a" * 41], "is not a name"),
    ],
)
def test_what_cannot_be_rated_is_said(evovlm: Command, finished: Path, arguments: list[str], words: str) -> None:
    found = evovlm("rate", *(str(finished) if each == "RUN" else each for each in arguments))
    assert (found.code, words in found.err) == (2, True), found.err
    assert not ratings_file(finished).exists()


def test_a_torn_last_line_is_cut_off_and_a_changed_file_is_refused(evovlm: Command, finished: Path) -> None:
    contest = _contest(finished)
    question = contest.question("ann")
    assert question is not None
    contest.ratings.append(question.choice("left", rater="ann", task=contest.task))
    file = ratings_file(finished)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind": "choice", "rater"')
    assert len(Ratings.open(file).choices) == 1
    assert file.read_bytes() == whole
    file.write_bytes(whole.replace(b'"left", "r', b'"both", "r').replace(b'"chosen": "left"', b'"chosen": "both"'))
    found = evovlm("rate", finished, "--results")
    assert found.code == 2
    assert f"{file}:2: is not a line of a journal of ratings" in found.err
    assert evovlm("export", finished, "--pick", "rated").code == 2


def test_the_page_shows_hostile_text_harmlessly_and_takes_each_choice_once(finished: Path) -> None:
    contest = _contest(finished)
    page = RatingPage(contest=contest, rater="ann", language="en")
    question = contest.question("ann")
    assert question is not None
    contest.answers[question.left][question.sample.id] = "<script>alert(1)</script>\u202e"  # type: ignore[index]
    html = page.html()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "U+202E" in html
    assert all(name not in html for name in contest.names.values())
    page.take({"question": "1", "chosen": "left"})
    page.take({"question": "1", "chosen": "left"})
    for wrong in ({"question": "2", "chosen": "both"}, {"chosen": "left"}, {}):
        page.take(wrong)
    assert [choice.chosen for choice in contest.ratings.choices] == ["left"]
    page.take({"question": "2", "chosen": "undo"})
    assert contest.ratings.choices == []


def test_the_page_ends_with_the_strengths(finished: Path) -> None:
    contest = _contest(finished)
    page = RatingPage(contest=contest, rater="ann", language="ja")
    while (question := contest.question("ann")) is not None:
        page.take({"question": str(question.number), "chosen": "left"})
    html = page.html()
    assert "すべての比較が終わりました" in html
    assert all(name in html for name in contest.names.values())


def test_what_people_preferred_is_in_the_report(finished: Path) -> None:
    assert "What people preferred" not in run_page(read_run(finished), language="en")
    contest = _contest(finished)
    for rater in ("ann", "<b>bob</b>"):
        while (question := contest.question(rater)) is not None:
            RatingPage(contest=contest, rater=rater, language="en").take(
                {"question": str(question.number), "chosen": "left"}
            )
    html = run_page(read_run(finished), language="en")
    shown = html.partition("What people preferred")[2].partition("</table>")[0]
    assert all(f"candidate {index}" in shown for index in map(_number, contest.names.values()))
    strongest = next(iter(contest.ratings.strengths().values()))
    assert f"{percent(strongest.share)}</td>" in shown
    assert "ann and &lt;b&gt;bob&lt;/b&gt; agree on 100.0 %" in html or "&lt;b&gt;bob&lt;/b&gt; and ann agree" in html
    assert "人による比較" in run_page(read_run(finished), language="ja")


def _number(name: str) -> str:
    return name.removeprefix("candidate ")


def test_the_answers_that_people_saw_are_in_the_report(finished: Path) -> None:
    contest = _contest(finished)
    shown = {row.recipe_id: row.answers for row in read_run(finished).last.course.candidates}
    for key in contest.names:
        if key in shown:
            assert [question for question, _ in shown[key]] == [sample.question for sample in contest.samples]
    assert any(shown.values())
    assert "Its answers to the samples that were rated" in run_page(read_run(finished), language="en")


def test_equal_answers_are_not_asked(finished: Path) -> None:
    contest = _contest(finished)
    same = {key: dict.fromkeys(answers, "同じ") for key, answers in contest.answers.items()}
    equal = Contest(
        task=contest.task, names=contest.names, samples=contest.samples, answers=same, ratings=contest.ratings
    )
    assert equal.question("ann") is None
    assert not equal.has_differences


def test_equal_models_leave_nothing_to_compare(
    evovlm: Command, models: Path, problems: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = shutil.copytree(models / "ja", tmp_path / "copy")
    _type(monkeypatch, "1")
    task = problems.with_name(f"{TASK}.yaml")
    found = evovlm("rate", models / "ja", copy, "--task", task, "--samples", "2", "--out", tmp_path / "ratings")
    assert found.code == 0, found.err
    assert "The 2 models answer all 2 samples equally" in found.err


def test_a_choice_between_a_model_and_itself_is_refused(tmp_path: Path) -> None:
    ratings = Ratings.open(tmp_path / "ratings.jsonl")
    ratings.append(Choice(rater="ann", task="t", sample="1", left="a", right="b", chosen="tie"))
    text = ratings.path.read_text(encoding="utf-8")
    ratings.path.write_text(text.replace('"right": "b"', '"right": "a"'), encoding="utf-8")
    with pytest.raises(Exception, match="compared with itself"):
        Ratings.read(ratings.path)
