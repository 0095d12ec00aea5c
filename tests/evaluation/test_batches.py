"""Batches are noted one by one, and what is noted is not asked again."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import RunMismatch
from evovlm.evaluation.batches import AnswerProgress, Answers, Batch, Batches, OnAnswers

CPU = torch.device("cpu")


class Noted:
    """A log in memory; `kept` are an earlier run's batches."""

    def __init__(self, kept: Sequence[Batch] = ()) -> None:
        self.kept = list(kept)
        self.appended: list[Batch] = []

    def recorded(self, number: int) -> Batch | None:
        return self.kept[number] if number < len(self.kept) else None

    def append(self, batch: Batch) -> None:
        self.appended.append(batch)


def answer(rows: Sequence[int], on_answers: OnAnswers) -> Answers:
    """Answer each row with its number, in two tokens, and tell of each."""
    for n_done in range(1, len(rows) + 1):
        on_answers(n_done, 2 * n_done)
    return Answers([str(row) for row in rows], 2 * len(rows))


@given(st.lists(st.integers(1, 50), max_size=400))
def test_answers_come_in_the_order_of_the_questions(lengths: list[int]) -> None:
    expected = [str(row) for row in range(len(lengths))]
    assert Batches(log=None, device=CPU).ask(lengths, answer) == expected
    log = Noted()
    batches = Batches(log=log, device=CPU)
    assert batches.ask(lengths, answer) == expected
    assert batches.tokens == 2 * len(lengths)
    assert sum(len(batch.rows) for batch in log.appended) == len(lengths)
    assert all(len(batch.rows) <= 96 for batch in log.appended)


@given(lengths=st.lists(st.integers(1, 50), min_size=200, max_size=400), kept=st.integers(0, 3))
def test_only_what_is_not_noted_is_asked(lengths: list[int], kept: int) -> None:
    whole = Noted()
    first = Batches(log=whole, device=CPU)
    expected = first.ask(lengths, answer)
    rest = Noted(whole.appended[:kept])
    again = Batches(log=rest, device=CPU)
    assert again.ask(lengths, answer) == expected
    assert [batch.rows for batch in rest.appended] == [batch.rows for batch in whole.appended[kept:]]
    assert again.tokens == first.tokens


def test_noted_answers_to_other_questions_are_refused() -> None:
    log = Noted([Batch(rows=(0, 1), answers=("a", "b"), tokens=2, seconds=0.1)])
    with pytest.raises(RunMismatch, match="belong to other questions"):
        Batches(log=log, device=CPU).ask([1, 2, 3], answer)


def test_answers_are_reported_within_a_batch_and_after_the_noted_ones() -> None:
    lengths = [5] * 600
    whole = Noted()
    told: list[AnswerProgress] = []
    first = Batches(log=whole, device=CPU, on_progress=told.append)
    first.ask(lengths, answer)
    assert len(whole.appended) > 2
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert {progress.done for progress in told} == set(range(1, 601))
    assert {(progress.total, progress.tokens - 2 * progress.done) for progress in told} == {(600, 0)}
    told.clear()
    first.ask([1, 2], answer)
    assert [(progress.done, progress.asked) for progress in told] == [(1, 601), (2, 602), (2, 602)]
    told.clear()
    kept = whole.appended[:2]
    again = Batches(log=Noted(kept), device=CPU, on_progress=told.append)
    again.ask(lengths, answer)
    n_kept = sum(len(batch.rows) for batch in kept)
    assert (told[0].done, told[0].asked) == (n_kept + 1, 1)
    assert (told[-1].done, told[-1].asked, told[-1].tokens) == (600, 600 - n_kept, 2 * (600 - n_kept))
