"""The means of samples' scores; needs no model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

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


def unscored_by_reason(scores: Iterable[tuple[str, SampleScore]]) -> Mapping[str, tuple[str, ...]]:
    """Return the ids of the samples that have no score, by reason, the most frequent reason first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, score in scores:
        if score.unscored is not None:
            found[score.unscored].append(name)
    return {reason: tuple(found[reason]) for reason in sorted(found, key=lambda reason: -len(found[reason]))}
