"""Asking a model in batches that can be noted one by one, so that a killed run goes on where it stopped."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch

from evovlm.errors import RunMismatch

# More than are decoded at once: while a batch is answered, prompts wait for the places of finished ones.
_QUESTIONS_ON_CPU = 256
_QUESTIONS_ELSEWHERE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a model said to the questions of these `rows`, in generated `tokens` and `seconds`."""

    rows: tuple[int, ...]
    answers: tuple[Any, ...]
    tokens: int
    seconds: float


class BatchLog(Protocol):
    """Where batches are noted; answers are strings, or numbers in lists, as JSON has them."""

    def recorded(self, number: int) -> Batch | None:
        """Return the batch of that number if an earlier run noted it."""
        ...

    def append(self, batch: Batch) -> None:
        """Note the next batch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the asking is: `done` of `total` questions; `asked` of them in this process, for `tokens` in `seconds`.

    `asked`, `tokens` and `seconds` go on from one round of questions of a task to the next.
    """

    done: int
    total: int
    asked: int
    tokens: int
    seconds: float


_NOTHING = Progress(done=0, total=0, asked=0, tokens=0, seconds=0.0)

OnAnswers: TypeAlias = Callable[[int, int], None]
"""Hears how many of the questions just asked are answered, and in how many tokens."""


class Asked(NamedTuple):
    """Answers in the order of the questions, and what they cost."""

    answers: list[Any]
    tokens: int


@dataclass(slots=True, kw_only=True, eq=False)
class Batches:
    """Asks questions in batches; `log` notes each, and gives those that it holds already.

    `on_progress` hears of every batch, and of answers as they come, in any thread. Without either, all are asked at
    once.
    """

    device: torch.device
    log: BatchLog | None = None
    on_progress: Callable[[Progress], None] | None = None
    tokens: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _number: int = field(default=0, init=False)
    _told: Progress = field(default=_NOTHING, init=False)

    def ask(self, lengths: Sequence[int], answer: Callable[[Sequence[int], OnAnswers], Asked]) -> list[Any]:
        """Return the answers of all questions, whose prompts have these lengths; `answer` is given rows of them.

        The batches depend on the lengths and the kind of device alone. Raises RunMismatch when the log holds others.
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
                f"the saved answers are not to these questions (batch {self._number}).\n"
                "    Score into a new folder: the model's tokenizer or the program's batches have changed."
            )
        return found

    def _asked(
        self, rows: Sequence[int], answer: Callable[[Sequence[int], OnAnswers], Asked], *, done: int, total: int
    ) -> Batch:
        began = time.perf_counter()
        before = self._told

        def on_answers(n_done: int, n_tokens: int) -> None:
            self._told = Progress(
                done=done + n_done,
                total=total,
                asked=before.asked + n_done,
                tokens=before.tokens + n_tokens,
                seconds=before.seconds + time.perf_counter() - began,
            )
            if self.on_progress is not None:
                self.on_progress(self._told)

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
        """Return the rows in batches of like size, those of like length together."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        if self.log is None and self.on_progress is None:
            return [order] if order else []
        at_once = _QUESTIONS_ON_CPU if self.device.type == "cpu" else _QUESTIONS_ELSEWHERE
        n_batches = math.ceil(len(order) / at_once)
        edges = [len(order) * number // n_batches for number in range(n_batches + 1)] if n_batches else []
        return [order[start:end] for start, end in itertools.pairwise(edges)]
