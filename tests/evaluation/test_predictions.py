"""Predictions are written as rows of JSON and read back the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import RunMismatch
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.predictions import parse_answers, prediction_lines
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
