"""Asking a model in batches that can be noted one by one, so that a killed run goes on where it stopped."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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

    def append(self, batch: Batch, *, total: int) -> None:
        """Note the next batch of `total` questions."""
        ...


class Asked(NamedTuple):
    """Answers in the order of the questions, and what they cost."""

    answers: list[Any]
    tokens: int


@dataclass(slots=True, kw_only=True, eq=False)
class Batches:
    """Asks questions in batches; `log` notes each, and gives those that it holds already. Without one, all at once."""

    log: BatchLog | None
    device: torch.device
    tokens: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _number: int = field(default=0, init=False)

    def ask(self, lengths: Sequence[int], answer: Callable[[Sequence[int]], Asked]) -> list[Any]:
        """Return the answers of all questions, whose prompts have these lengths; `answer` is given rows of them.

        The batches depend on the lengths and the kind of device alone. Raises RunMismatch when the log holds others.
        """
        answers: dict[int, Any] = {}
        for rows in self._batches(lengths):
            batch = self._recorded(rows) or self._asked(rows, answer, total=len(lengths))
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

    def _asked(self, rows: Sequence[int], answer: Callable[[Sequence[int]], Asked], *, total: int) -> Batch:
        began = time.perf_counter()
        said = answer(rows)
        batch = Batch(
            rows=tuple(rows),
            answers=tuple(said.answers),
            tokens=said.tokens,
            seconds=round(time.perf_counter() - began, 4),
        )
        if self.log is not None:
            self.log.append(batch, total=total)
        return batch

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the rows in batches of like size, those of like length together."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        if self.log is None:
            return [order] if order else []
        at_once = _QUESTIONS_ON_CPU if self.device.type == "cpu" else _QUESTIONS_ELSEWHERE
        n_batches = math.ceil(len(order) / at_once)
        edges = [len(order) * number // n_batches for number in range(n_batches + 1)] if n_batches else []
        return [order[start:end] for start, end in itertools.pairwise(edges)]
