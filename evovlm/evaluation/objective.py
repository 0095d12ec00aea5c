"""What a search maximises: one number, the fitness, from a model's scores on several tasks, and bounds on them.

The fitness of a candidate that keeps every bound is in [0, 1], like scores. Otherwise it is minus the candidate's total
violation: below that of every feasible candidate, and lower for larger violations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from evovlm.recipes.candidate import Evaluation, TaskScore, Thinking
from evovlm.recipes.low_score import joined

Combine = Literal["mean", "worst", "geometric"]
"""How the tasks' scores are combined: the weighted mean, the lowest, or the weighted geometric mean."""

Measure = Literal["score", "ungated", "japanese", "tokens", "thought_tokens", "thought_japanese"]
"""The figure of a task that a constraint or a goal is about; see `TaskScore` and `Thinking`."""

LENGTHS: frozenset[str] = frozenset({"tokens", "thought_tokens"})
"""The measures for which lower is better."""
THINKING: frozenset[str] = LENGTHS | {"thought_japanese"}
"""The measures that are taken only where they are asked for."""

_LEAST = 0.01
_ROUNDING = 1e-9
"""How far a mean that should be exactly at a bound may be below it through rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A bound on one task's `measure`: `at_least` this value, or, with a `parent`, no more than `by` below it.

    A length is `at_most` a value; its violation is relative to it. `parent` is the score of the source named `source`,
    unmerged, on all samples of the search.
    """

    task: str
    measure: Measure = "score"
    at_least: float = 0.0
    source: str | None = None
    by: float = 0.0
    parent: TaskScore | None = None
    at_most: float | None = None

    @property
    def least_mean(self) -> float:
        """The bound over all samples."""
        return self.at_least if self.parent is None else self.parent.measured(self.measure) - self.by

    def least(self, score: TaskScore) -> float:
        """Return the bound for a score; a parent's score counts on the same samples if it is known for each sample."""
        if self.parent is None or self.measure != "score" or score.rows is None:
            return self.least_mean
        return sum(self.parent.per_sample[row] for row in score.rows) / len(score.rows) - self.by

    def violation(self, scores: Mapping[str, TaskScore]) -> float:
        """Return by how much scores miss the bound; 0 if they keep it."""
        score = scores[self.task]
        if self.at_most is not None:
            missing = score.measured(self.measure) / self.at_most - 1
        else:
            missing = self.least(score) - score.measured(self.measure)
        return missing if missing > _ROUNDING else 0.0

    def __str__(self) -> str:
        measured = self.task if self.measure == "score" else f"{self.task} ({self.measure})"
        if self.at_most is not None:
            return f"{measured} at most {self.at_most:g}"
        if self.source is None:
            return f"{measured} at least {self.at_least:g}"
        return f"{measured} not below {self.source} by more than {self.by:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A goal of a front: a task's `measure`, in [0, 1], higher is better; of a length, what is saved of `at_most`."""

    task: str
    measure: Measure = "score"
    at_most: float | None = None

    def value(self, scores: Mapping[str, TaskScore]) -> float:
        """Return how well scores reach the goal."""
        found = scores[self.task].measured(self.measure)
        return found if self.at_most is None else max(0.0, 1 - found / self.at_most)

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"{self.task} ({self.measure} saved of {self.at_most:g})"
        return self.task if self.measure == "score" else f"{self.task} ({self.measure})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The tasks' `weights` by name, how their scores are combined, and the bounds.

    A task of weight 0 is not part of the fitness and not a goal, but a constraint may be on it. With `pareto`, every
    other task is also a separate goal, and so are `further` ones. With `human`, a person's choice replaces the scores,
    which needs the candidates' answers.
    """

    weights: Mapping[str, float]
    combine: Combine = "mean"
    constraints: tuple[Constraint, ...] = ()
    pareto: bool = False
    further: tuple[Goal, ...] = ()
    human: bool = False

    @property
    def all_goals(self) -> tuple[Goal, ...]:
        """The goals of the trade-off: the tasks with a weight above 0, and the further ones."""
        return (*(Goal(task=name) for name in self.tasks), *self.further)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks with a weight above 0, in their order."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)

    def fitness(self, scores: Mapping[str, TaskScore]) -> float:
        """Return the fitness of these scores, one for each task; higher is better, below 0 is infeasible."""
        violation = self.violation(scores)
        return -violation if violation > 0 else self._combined({name: scores[name].score for name in self.tasks})

    def violation(self, scores: Mapping[str, TaskScore]) -> float:
        """Return by how much the scores miss all bounds together; 0 for feasible scores."""
        return sum(constraint.violation(scores) for constraint in self.constraints)

    def violated(self, scores: Mapping[str, TaskScore]) -> tuple[Constraint, ...]:
        """Return the constraints that these scores do not keep."""
        return tuple(constraint for constraint in self.constraints if constraint.violation(scores) > 0)

    def goals(self, scores: Mapping[str, TaskScore]) -> tuple[float, ...]:
        """Return the value of each goal with `pareto`; empty without.

        For infeasible scores, every goal is the fitness, so that any feasible candidate dominates them.
        """
        if not self.pareto:
            return ()
        violation = self.violation(scores)
        return tuple(-violation if violation > 0 else goal.value(scores) for goal in self.all_goals)

    def gradient(self, scores: Mapping[str, float]) -> Mapping[str, float]:
        """Return by how much the fitness grows with each task's score, at these mean scores, for small changes.

        If a score breaks a bound, it is the slope of the violation; bounds on other measures do not count. `worst`
        gives everything to the lowest score, the first of equal ones. For the geometric mean, whose slope at a score of
        0 is infinite, a score counts as at least 0.01.
        """
        broken = [
            each.task for each in self.constraints if each.measure == "score" and scores[each.task] < each.least_mean
        ]
        if broken:
            return {name: float(broken.count(name)) for name in self.weights}
        shares = self._shares()
        if self.combine == "worst":
            lowest = min(shares, key=lambda name: scores[name])
            return {name: float(name == lowest) for name in self.weights}
        if self.combine == "geometric":
            floored = {name: max(scores[name], _LEAST) for name in shares}
            fitness = self._combined(floored)
            return {name: shares[name] * fitness / floored[name] if name in shares else 0.0 for name in self.weights}
        return {name: shares.get(name, 0.0) for name in self.weights}

    def evaluation(self, scores: Mapping[str, TaskScore], *, seconds: Mapping[str, float], tokens: int) -> Evaluation:
        """Return the evaluation with these scores."""
        return Evaluation(
            scores=scores, fitness=self.fitness(scores), goals=self.goals(scores), seconds=seconds, tokens=tokens
        )

    def joined(self, parts: Sequence[Evaluation]) -> Evaluation:
        """Return one evaluation of a candidate that was scored on disjoint parts of the samples in turn."""
        scores = {name: _joined([part.scores[name] for part in parts]) for name in parts[0].scores}
        seconds = {
            stage: sum(part.seconds.get(stage, 0.0) for part in parts) for part in parts for stage in part.seconds
        }
        return self.evaluation(scores, seconds=seconds, tokens=sum(part.tokens for part in parts))

    def _shares(self) -> Mapping[str, float]:
        total = sum(self.weights.values())
        return {name: self.weights[name] / total for name in self.tasks}

    def _combined(self, values: Mapping[str, float]) -> float:
        if self.combine == "worst":
            return min(values.values())
        if self.combine == "geometric":
            return math.prod(math.pow(values[name], share) for name, share in self._shares().items())
        # Divided at the end, so that the mean of equal scores is exactly their value.
        return sum(self.weights[name] * value for name, value in values.items()) / sum(self.weights.values())


def _joined(parts: Sequence[TaskScore]) -> TaskScore:
    if len(parts) == 1:
        return parts[0]
    n = sum(part.n for part in parts)
    return replace(
        parts[0],
        score=sum(part.score * part.n for part in parts) / n,
        ungated=sum(part.ungated * part.n for part in parts) / n,
        japanese=sum(part.japanese * part.n for part in parts) / n,
        per_sample=tuple(value for part in parts for value in part.per_sample),
        n=n,
        unscored=sum(part.unscored for part in parts),
        rows=tuple(row for part in parts for row in (range(part.n) if part.rows is None else part.rows)),
        low=joined([part.low for part in parts]),
        thinking=_joined_thinking(parts),
        repeats=tuple(
            sum(score * part.n for score, part in zip(scores, parts, strict=True)) / n
            for scores in zip(*(part.repeats for part in parts), strict=True)
        ),
    )


def _joined_thinking(parts: Sequence[TaskScore]) -> Thinking | None:
    known = [(part.thinking, part.n) for part in parts if part.thinking is not None]
    return Thinking.joined(known) if len(known) == len(parts) else None
