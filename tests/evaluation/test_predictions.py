"""Predictions are written as rows of JSON and read back the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import RunMismatch
from evovlm.evaluation.answers import Answer, ScoredTask
from evovlm.evaluation.predictions import parse_answers, prediction_lines
from evovlm.tasks.metrics.scoring import SampleScore
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
    score=st.builds(
        SampleScore,
        score=st.floats(0, 1),
        ungated=st.floats(0, 1),
        japanese=st.booleans(),
        extracted=st.none() | TEXT,
        unscored=st.none() | TEXT,
    ),
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
