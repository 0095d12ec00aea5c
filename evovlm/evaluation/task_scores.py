"""The means of samples' scores; needs no model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from evovlm.evaluation.intervals import mean_interval
from evovlm.recipes.candidate import TaskScore
from evovlm.tasks.metrics.rouge import bootstrap_mid
from evovlm.tasks.metrics.scoring import SampleScore
from evovlm.tasks.metrics.table import METRICS


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


def figures(score: TaskScore, *, metric: str) -> Mapping[str, object]:
    """Return the means by `metric` as plain values, each in [0, 1].

    Where the paper's tables aggregate a metric by bootstrap, `bootstrap_mid` is there too, in [0, 1] like `score`, the
    plain mean: it is for a comparison with those tables.
    """
    found: dict[str, object] = {"score": score.score, "interval": list(mean_interval(score.per_sample))}
    if metric in METRICS and METRICS[metric].bootstrapped:
        found["bootstrap_mid"] = bootstrap_mid(score.per_sample)
    return {
        **found,
        "ungated": score.ungated,
        "japanese": score.japanese,
        "n": score.n,
        "unscored": score.unscored,
    }


def unscored_by_reason(scores: Iterable[tuple[str, SampleScore]]) -> Mapping[str, tuple[str, ...]]:
    """Return the ids of the samples that have no score, by reason, the most frequent reason first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, score in scores:
        if score.unscored is not None:
            found[score.unscored].append(name)
    return {reason: tuple(found[reason]) for reason in sorted(found, key=lambda reason: -len(found[reason]))}
