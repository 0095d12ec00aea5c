"""How long a model takes to become a recipe, and to answer: timed on a few samples, with the range that this leaves."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from evovlm.errors import ConfigError, TaskError
from evovlm.evaluation.answers import PreparedTask, ScoredTask
from evovlm.evaluation.evaluator import Evaluator
from evovlm.models.loading import LoadedModel
from evovlm.recipes.kinds import Recipe

FEW, MORE = 4, 12
"""Samples of each task that are asked at once, first and then: a batch's speed depends on its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A number that lies about between two others."""

    low: float = 0.0
    high: float = 0.0

    def times(self, factor: float) -> "Span":
        """Return it so many times."""
        return Span(low=self.low * factor, high=self.high * factor)

    def plus(self, other: "Span") -> "Span":
        """Return the sum of both."""
        return Span(low=self.low + other.low, high=self.high + other.high)

    @property
    def middle(self) -> float:
        """The mean of its ends."""
        return (self.low + self.high) / 2


class SampleCost(NamedTuple):
    """What one sample of a task costs when all that a candidate is scored on are asked at once."""

    tokens: Span
    seconds: Span


def timed_merge(evaluator: Evaluator, recipe: Recipe) -> Span:
    """Return the seconds of a merge; the model is then what the recipe says.

    It is done three times, of which the first does not count. Raises ConfigError when its weights are not finite.
    """
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        if not evaluator.resident.merge(recipe):
            raise ConfigError(f"recipe {recipe.recipe_id}: the merged weights are not finite. Lower its weights.")
        taken.append(time.perf_counter() - started)
    return Span(low=min(taken[1:]), high=max(taken[1:]))


def timed_answers(task: PreparedTask, loaded: LoadedModel, *, at_once: int) -> SampleCost:
    """Return what a sample costs where `at_once` are asked together, from a batch of `FEW` and one of `MORE`.

    A task that can only be asked as a whole is. Tokens range over two standard errors of their mean. Seconds range
    from what is left when each further sample adds as much as those between the two batches did, to what the larger
    batch took a sample.
    """
    with torch.inference_mode():
        try:
            few, few_s = _answered(task.part(_spread(task.n_samples, FEW)), loaded)
            more, more_s = _answered(task.part(_spread(task.n_samples, MORE)), loaded)
        except TaskError:
            few, few_s = more, more_s = _answered(task, loaded)
    n_few, n_more = len(few.answers), len(more.answers)
    tokens = _tokens(more, loaded)
    share = tokens.times(n_more / more.tokens) if more.tokens else Span(low=1.0, high=1.0)
    each = more_s / n_more
    further = (more_s - few_s) / (n_more - n_few) if n_more > n_few and more_s > few_s else each
    at_best = (more_s + further * max(0, at_once - n_more)) / max(at_once, n_more)
    ends = sorted((each, at_best))
    return SampleCost(tokens=tokens, seconds=Span(low=ends[0] * share.low, high=ends[1] * share.high))


def _answered(task: PreparedTask, loaded: LoadedModel) -> tuple[ScoredTask, float]:
    started = time.perf_counter()
    scored = task.answer(loaded)
    return scored, time.perf_counter() - started


def _spread(size: int, wanted: int) -> Sequence[int]:
    """Return `wanted` rows, or all there are, at even distances."""
    count = min(size, wanted)
    return [index * size // count for index in range(count)]


def _tokens(scored: ScoredTask, loaded: LoadedModel) -> Span:
    """Return the tokens of one answer: their mean, give or take two standard errors."""
    mean = scored.tokens / len(scored.answers)
    lengths = [len(loaded.tokenizer(answer.text)["input_ids"]) for answer in scored.answers]
    error = statistics.stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else mean / 2
    return Span(low=max(0.0, mean - 2 * error), high=mean + 2 * error)
