"""The means of samples' scores; needs no model."""

from collections.abc import Sequence

from evovlm.recipes.candidate import TaskScore
from evovlm.tasks.scoring import SampleScore


def task_score(scores: Sequence[SampleScore]) -> TaskScore:
    """Return the means of some samples' scores, of which there is at least one."""
    n = len(scores)
    return TaskScore(
        score=sum(score.score for score in scores) / n,
        ungated=sum(score.ungated for score in scores) / n,
        japanese=sum(score.japanese for score in scores) / n,
        per_sample=tuple(score.score for score in scores),
        n=n,
        unscored=sum(score.unscored is not None for score in scores),
    )
