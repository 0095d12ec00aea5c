"""What is asked and what was answered: a choice of tasks, a task opened and prepared, its answers and their scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evovlm.evaluation.intervals import mean_interval
from evovlm.recipes.candidate import TaskScore
from evovlm.tasks.metrics.rouge import bootstrap_mid
from evovlm.tasks.metrics.scoring import SampleScore
from evovlm.tasks.metrics.table import METRICS
from evovlm.tasks.sample import Sample

if TYPE_CHECKING:
    from evovlm.evaluation.batches import Batches
    from evovlm.models.loading import LoadedModel
    from evovlm.models.pictures.feature_store import FeatureStore


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """A task to score: its name, the first `limit` samples, its `weight` in a fitness, and where its data is.

    `decoding` names one of the task's cheaper ways to decode, `prompt` another prompt, `metric` another metric; None is
    the task's own.
    """

    name: str
    decoding: str | None = None
    prompt: str | None = None
    metric: str | None = None
    limit: int | None = None
    weight: float = 1.0
    data: Path | None = None


class OpenTask(Protocol):
    """A task whose samples have been read; `prepare` turns them into prompts of a model."""

    @property
    def name(self) -> str:
        """The name that the task was chosen by."""
        ...

    @property
    def measured(self) -> str:
        """How it is scored: metric, extractor, gate."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a model is asked, and of how it is scored."""
        ...

    def prepare(self, loaded: LoadedModel, *, store: FeatureStore | None = None) -> PreparedTask:
        """Compute everything that no merge changes; features of pictures go into `store`, one for all tasks of a model.

        Raises TaskError when the model cannot be asked these samples.
        """
        ...


class PreparedTask(Protocol):
    """A task as prompts of one model."""

    @property
    def name(self) -> str:
        """The name that the task was chosen by."""
        ...

    @property
    def n_samples(self) -> int:
        """The number of samples."""
        ...

    def part(self, rows: Sequence[int]) -> PreparedTask:
        """Return the task with only these samples. Raises TaskError for a task that can only be asked as a whole."""
        ...

    def answer(self, loaded: LoadedModel, *, batches: Batches | None = None) -> ScoredTask:
        """Have the model answer, in these new `batches`, and score every answer.

        Raises FloatingPointError when the logits are not finite.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sample's answer and what it scored."""

    sample: Sample
    text: str
    score: SampleScore


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTask:
    """All answers to a task, in the task's order, how they were scored, and what they cost.

    `measured` describes the whole scoring for people, the `metric` and the `gate` included.
    """

    name: str
    metric: str
    measured: str
    gate: str | None
    answers: tuple[Answer, ...]
    tokens: int
    seconds: Mapping[str, float]

    @property
    def score(self) -> TaskScore:
        """The means over all samples."""
        return task_score([answer.score for answer in self.answers])

    def tagged(self, tag: str) -> TaskScore | None:
        """The means over the samples with this tag; None without such a sample."""
        scores = [answer.score for answer in self.answers if tag in answer.sample.tags]
        return task_score(scores) if scores else None

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of its samples, sorted."""
        return tuple(sorted({tag for answer in self.answers for tag in answer.sample.tags}))

    @property
    def unscored(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the samples without a score, by reason; the most frequent reason comes first."""
        return unscored_by_reason((answer.sample.id, answer.score) for answer in self.answers)


def task_score(scores: Sequence[SampleScore]) -> TaskScore:
    """Return the means of the scores of one or more samples."""
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

    For a metric that the paper's tables aggregate by bootstrap, `bootstrap_mid`, in [0, 1], is included beside `score`,
    the plain mean, for a comparison with those tables.
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
    """Return the ids of the samples without a score, by reason; the most frequent reason comes first."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, score in scores:
        if score.unscored is not None:
            found[score.unscored].append(name)
    return {reason: tuple(found[reason]) for reason in sorted(found, key=lambda reason: -len(found[reason]))}
