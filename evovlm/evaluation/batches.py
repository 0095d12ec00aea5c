"""Asks a model in batches that can be saved one by one, so that a killed run resumes where it stopped."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from evovlm.errors import RunMismatch

if TYPE_CHECKING:
    import torch

# More than are decoded at once: while a batch is answered, prompts wait for slots of finished ones.
_QUESTIONS_ON_CPU = 256
_QUESTIONS_ELSEWHERE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A model's answers to the questions of these `rows`, with the generated `tokens` and the `seconds` they took."""

    rows: tuple[int, ...]
    answers: tuple[Any, ...]
    tokens: int
    seconds: float


class BatchLog(Protocol):
    """Where batches are saved; answers are JSON values: strings, or lists of numbers."""

    def recorded(self, number: int) -> Batch | None:
        """Return the batch of that number if an earlier run saved it."""
        ...

    def append(self, batch: Batch) -> None:
        """Save the next batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerProgress:
    """How many of `total` questions are `done`; `asked` of them in this process, with `tokens` in `seconds`.

    `asked`, `tokens` and `seconds` add up over all rounds of questions of a task.
    """

    done: int
    total: int
    asked: int
    tokens: int
    seconds: float


_NOTHING = AnswerProgress(done=0, total=0, asked=0, tokens=0, seconds=0.0)

OnAnswers: TypeAlias = Callable[[int, int], None]
"""Is called with the number of answers to the current questions, and their tokens."""


class Answers(NamedTuple):
    """Answers in the order of the questions, and what they cost."""

    answers: list[Any]
    tokens: int


@dataclass(slots=True, kw_only=True, eq=False)
class Batches:
    """Asks questions in batches; `log` saves each batch, and returns those that it already has.

    `on_progress` is called after every batch and as answers come, in any thread. Without both, all questions are asked
    at once.
    """

    device: torch.device
    log: BatchLog | None = None
    on_progress: Callable[[AnswerProgress], None] | None = None
    tokens: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _number: int = field(default=0, init=False)
    _latest: AnswerProgress = field(default=_NOTHING, init=False)

    def ask(self, lengths: Sequence[int], answer: Callable[[Sequence[int], OnAnswers], Answers]) -> list[Any]:
        """Return the answers to all questions, whose prompts have these lengths; `answer` is called with rows of them.

        The batches depend only on the lengths and the kind of device. Raises RunMismatch when the log has others.
        """
        answers: dict[int, Any] = {}
        for rows in self._batches(lengths):
            batch = self._recorded(rows) or self._asked(rows, answer, done=len(answers), total=len(lengths))
            self._number += 1
            self.tokens += batch.tokens
            self.seconds += batch.seconds
            answers.update(zip(rows, batch.answers, strict=True))
        return [answers[row] for row in range(len(lengths))]

    def _recorded(self, rows: Sequence[int]) -> Batch | None:
        found: Batch | None = self.log.recorded(self._number) if self.log is not None else None
        if found is not None and found.rows != tuple(rows):
            raise RunMismatch(
                f"the saved answers belong to other questions (batch {self._number}).\n"
                "    Score into a new folder: the model's tokenizer or evovlm's batches have changed."
            )
        return found

    def _asked(
        self, rows: Sequence[int], answer: Callable[[Sequence[int], OnAnswers], Answers], *, done: int, total: int
    ) -> Batch:
        began = time.perf_counter()
        before = self._latest

        def on_answers(n_done: int, n_tokens: int) -> None:
            self._latest = AnswerProgress(
                done=done + n_done,
                total=total,
                asked=before.asked + n_done,
                tokens=before.tokens + n_tokens,
                seconds=before.seconds + time.perf_counter() - began,
            )
            if self.on_progress is not None:
                self.on_progress(self._latest)

        said = answer(rows, on_answers)
        on_answers(len(rows), said.tokens)
        batch = Batch(
            rows=tuple(rows),
            answers=tuple(said.answers),
            tokens=said.tokens,
            seconds=round(time.perf_counter() - began, 4),
        )
        if self.log is not None:
            self.log.append(batch)
        return batch

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the rows in batches of similar size, with prompts of similar length together."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        if self.log is None and self.on_progress is None:
            return [order] if order else []
        at_once = _QUESTIONS_ON_CPU if self.device.type == "cpu" else _QUESTIONS_ELSEWHERE
        n_batches = math.ceil(len(order) / at_once)
        edges = [len(order) * number // n_batches for number in range(n_batches + 1)] if n_batches else []
        return [order[start:end] for start, end in itertools.pairwise(edges)]
