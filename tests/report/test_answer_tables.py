"""Standings, and everyone's answers side by side."""

import pytest

from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.comparison import compare_by_id
from evovlm.evaluation.intervals import mean_interval
from evovlm.recipes.model_ref import ModelRef
from evovlm.report import answer_tables
from evovlm.report.answer_tables import report_of
from evovlm.report.content import TaskReport
from evovlm.runs.scores.contenders import Contender, Role
from evovlm.runs.scores.standings import Answered
from tests.report.made_runs import TASK, answer, everyones_answers, scored

_ROLES: dict[str, Role] = {"winner": "winner", "math": "parent", "ja": "parent", "equal-weights": "baseline"}


def _report(names: tuple[str, ...] = tuple(_ROLES), **changes: object) -> TaskReport:
    answers = {**everyones_answers(), **changes}
    answered = [
        Answered(
            contender=Contender(name=name, role=_ROLES[name], key=name, model=ModelRef(text="zoo:ja")),
            scored=answers[name],
        )
        for name in names
    ]
    return report_of(answered, TaskChoice(name=TASK))


def test_scores_intervals_and_tests_are_the_evaluations_own() -> None:
    report = _report()
    answers = everyones_answers()
    for standing, (name, task) in zip(report.standings, answers.items(), strict=True):
        assert standing.name == name
        assert standing.score == task.score.score
        assert standing.interval == mean_interval(task.score.per_sample)
    scores = [{each.sample.id: each.score for each in answers[name].answers} for name in ("winner", "math")]
    assert report.standings[0].against is None
    assert report.standings[1].against == compare_by_id(*scores)
    assert report.binary


def test_who_is_right_counts_the_child_against_its_parents_alone() -> None:
    assert [row.who for row in _report().rows] == ["child"] * 5 + ["parent"]
    nobody = scored([answer(each, "?", score=0.0) for each in range(6)])
    assert [row.who for row in _report(winner=nobody).rows] == ["none"] * 5 + ["parent"]
    both = _report(math=everyones_answers()["winner"])
    assert [row.who for row in both.rows] == ["both"] * 5 + ["none"]


def test_nothing_is_compared_without_the_winners_answers() -> None:
    report = _report(names=("math", "ja"))
    assert not report.has_winner
    assert all(each.against is None for each in report.standings)


def test_answers_to_other_samples_are_not_set_side_by_side() -> None:
    fewer = scored([answer(each, "x") for each in range(4)])
    report = _report(math=fewer)
    assert [row.id for row in report.rows] == ["q0", "q1", "q2", "q3"]
    assert report.standings[1].against is None


def test_long_answers_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_tables, "_MOST_CHARACTERS", 2000)
    long = scored([answer(each, "長" * 1000) for each in range(6)])
    report = _report(winner=long)
    assert report.cut == 6
    assert all(200 <= len(row.cells[0].text) < 1000 and row.cells[0].text.endswith("…") for row in report.rows)
    assert report.rows[0].cells[1].text == "The answer is 0."


def test_samples_beyond_what_a_page_holds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_tables, "_MOST_ROWS", 4)
    report = _report()
    assert (len(report.rows), report.left_out, report.n) == (4, 2, 6)


def test_a_few_names_are_a_matrix_of_what_was_said_for_which() -> None:
    said = ["桜", "梅。", "梅", "わからない", "", "さくら"]
    named = scored(
        [
            answer(
                each, text, score=float(text in ("桜", "さくら")), references=("桜" if each != 2 else "梅", "さくら")
            )
            for each, text in enumerate(said)
        ],
        metric="rouge_l_ja",
    )
    (confusion,) = _report(names=("winner",), winner=named).confusions
    assert confusion.names == ("桜", "梅")
    assert confusion.matrix == ((2, 1, 2), (0, 1, 0))
    assert confusion.pairs == ()


def test_many_names_that_come_again_are_shown_as_confusions_by_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_tables, "_MOST_IN_MATRIX", 1)
    said = ["桜", "梅", "梅", "梅", "桃", "桜"]
    named = scored(
        [
            answer(each, text, score=float(text == "桜"), references=("桜" if each < 5 else "松",))
            for each, text in enumerate(said)
        ],
        metric="rouge_l_ja",
    )
    report = _report(names=("winner",), winner=named)
    (confusion,) = report.confusions
    assert confusion.pairs[0] == ("桜", "梅", 3)
    assert confusion.pairs[1] == ("桜", "桃", 1)
    assert (confusion.names, confusion.matrix) == ((), ())
    assert _report().confusions == ()
