"""What a search maximises: one number, the fitness, from a model's scores on several tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evovlm.recipes.candidate import Evaluation, TaskScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The mean of the tasks' scores by their `weights`, which hold every task by name."""

    weights: Mapping[str, float]

    def fitness(self, scores: Mapping[str, TaskScore]) -> float:
        """Return the fitness of these scores, one of each task; higher is better."""
        return sum(weight * scores[name].score for name, weight in self.weights.items()) / sum(self.weights.values())

    def gradient(self, scores: Mapping[str, float]) -> Mapping[str, float]:
        """Return by how much the fitness grows with each task's score, at these `scores`, for small changes."""
        total = sum(self.weights.values())
        return {name: self.weights[name] / total for name in scores}

    def goals(self, scores: Mapping[str, TaskScore]) -> tuple[float, ...]:  # noqa: ARG002 - one goal has no trade-off
        """Return what each of several goals is worth; empty where there is one."""
        return ()

    def evaluation(self, scores: Mapping[str, TaskScore], *, seconds: Mapping[str, float], tokens: int) -> Evaluation:
        """Return the evaluation that these scores are."""
        return Evaluation(
            scores=scores, fitness=self.fitness(scores), goals=self.goals(scores), seconds=seconds, tokens=tokens
        )

    def joined(self, parts: Sequence[Evaluation]) -> Evaluation:
        """Return one evaluation of a candidate that was scored on disjoint parts of the samples, one after another."""
        scores = {name: _joined([part.scores[name] for part in parts]) for name in parts[0].scores}
        seconds = {
            stage: sum(part.seconds.get(stage, 0.0) for part in parts) for part in parts for stage in part.seconds
        }
        return self.evaluation(scores, seconds=seconds, tokens=sum(part.tokens for part in parts))


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
    )
