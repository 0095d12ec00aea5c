"""Predictions are written as rows of JSON and read back the same."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import RunMismatch, TaskError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.grading import ScoringChoice, grade
from evovlm.evaluation.predictions import parse_answers, prediction_lines, read_predictions
from evovlm.tasks.metrics.scoring import Answer
from evovlm.tasks.sample import Sample

# What UTF-8 can hold: lone surrogates stand in no file.
TEXT = st.text(st.characters(exclude_categories=("Cs",)))
ANSWERS = st.builds(
    Answer,
    sample=st.builds(
        Sample,
        id=TEXT,
        question=TEXT,
        references=st.lists(TEXT).map(tuple),
        tags=st.frozensets(TEXT),
        choices=st.lists(TEXT).map(tuple),
        images=st.just(()),
        origin=st.none(),
    ),
    text=TEXT,
    score=st.floats(0, 1),
    ungated=st.floats(0, 1),
    japanese=st.booleans(),
    extracted=st.none() | TEXT,
    unscored=st.none() | TEXT,
)


@given(st.lists(ANSWERS, max_size=5))
def test_answers_come_back_as_they_were(answers: list[Answer]) -> None:
    scored = ScoredTask(name="t", metric="m", measured="m", gate="script", answers=tuple(answers), tokens=1, seconds={})
    lines = prediction_lines(scored).encode().decode()
    assert lines.count("\n") == len(answers)
    assert parse_answers(lines, where="here") == tuple(answers)


@pytest.mark.parametrize("line", ["{}", "[]", "no JSON", "3"])
def test_what_is_not_a_prediction_is_reported_with_its_line(line: str) -> None:
    with pytest.raises(RunMismatch, match=r"answers\.jsonl:1: is not a prediction"):
        parse_answers(line + "\n", where="answers.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        {"id": 3},
        {"references": "2"},
        {"references": [2]},
        {"score": "1"},
        {"score": True},
        {"score": float("nan")},
        {"japanese": 1},
        {"text": "\ud800"},
        {"unscored": []},
    ],
)
def test_a_prediction_with_a_value_of_a_wrong_type_is_reported(change: dict[str, object]) -> None:
    row = {
        **{"id": "a", "question": "?", "references": ["2"], "tags": [], "choices": [], "text": "2", "extracted": "2"},
        **{"score": 1.0, "ungated": 1.0, "japanese": True, "unscored": None},
    }
    assert parse_answers(json.dumps(row) + "\n", where="answers.jsonl")
    with pytest.raises(RunMismatch, match=r"answers\.jsonl:1: is not a prediction"):
        parse_answers(json.dumps({**row, **change}) + "\n", where="answers.jsonl")


def answer(name: str, score: float, repeat: int) -> Answer:
    sample = Sample(id=name, question="3+4?", references=("7",))
    return Answer(sample=sample, text=str(7 * score), score=score, ungated=score, japanese=False, repeat=repeat)


REPEATED = [("a", 1.0), ("a", 0.0), ("a", 0.0), ("b", 1.0), ("b", 1.0), ("b", 0.0)]


def test_repeated_answers_count_in_the_mean_of_their_sample(tmp_path: Path) -> None:
    answers = tuple(answer(name, score, number % 3) for number, (name, score) in enumerate(REPEATED))
    scored = ScoredTask(name="t", metric="accuracy", measured="m", gate=None, answers=answers)
    assert scored.score.per_sample == (1 / 3, 2 / 3)
    assert (scored.score.score, scored.score.n, scored.score.repeats) == (0.5, 2, (1.0, 0.5, 0.0))
    assert scored.score.spread == 0.5
    assert list(scored.by_id) == ["a", "b"]
    assert scored.compared(scored).difference == 0
    path = tmp_path / "answers.jsonl"
    path.write_text(prediction_lines(scored), encoding="utf-8")
    assert parse_answers(path.read_text(encoding="utf-8"), where="here") == answers
    # In any order of lines.
    path.write_text("".join(sorted(path.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")
    (graded,) = grade(read_predictions(path), ScoringChoice(metric="accuracy"))
    assert (graded.score.per_sample, graded.score.repeats) == ((1 / 3, 2 / 3), (1.0, 0.5, 0.0))


def test_samples_with_different_numbers_of_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [{"id": "a", "text": "7", "references": ["7"]}, {"id": "b", "text": "7", "references": ["7"], "repeat": 1}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(TaskError, match="different numbers of answers"):
        read_predictions(path)


@pytest.mark.parametrize("metric", ["accuracy", "rouge_l_ja", "exact_match"])
def test_a_row_without_a_reference_is_refused_and_not_wrong(tmp_path: Path, metric: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"text": "7", "references": ["7"]}\n{"text": "7", "references": []}\n', encoding="utf-8")
    with pytest.raises(TaskError, match=rf"answers\.jsonl:2: has no reference answer, which {metric} compares with"):
        grade(read_predictions(path), ScoringChoice(metric=metric))
