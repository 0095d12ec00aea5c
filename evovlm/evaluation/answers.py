"""What is asked and how well it was answered: a choice of tasks, a task opened and prepared, its scored answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from evovlm.evaluation.comparison import Comparison, compare_by_id
from evovlm.evaluation.intervals import mean_interval
from evovlm.evaluation.judging import JudgeChoice
from evovlm.recipes.candidate import TaskScore, Thinking
from evovlm.recipes.low_score import LowScore
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.metrics.rouge import bootstrap_mid
from evovlm.tasks.metrics.scoring import Answer
from evovlm.tasks.metrics.table import METRICS
from evovlm.tasks.prompts import ChatSettings
from evovlm.tasks.task import TaskSettings
from evovlm.thoughts import Reasoning

if TYPE_CHECKING:
    from evovlm.evaluation.batches import Batches
    from evovlm.evaluation.engines.engine import Engine
    from evovlm.models.loading import LoadedModel
    from evovlm.models.pictures.feature_store import FeatureStore


ThinkingMeasured: TypeAlias = Literal["never", "always", "found"]
"""Whether the lengths of answers are measured: never, always, or if any answer has a thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """A task to score: its name, the first `limit` samples, its `weight` in a fitness, and where its data is.

    `decoding` changes how it is decoded, `prompt` and `chat` how it is asked; `metric`, `extractor`, `gate` and
    `reasoning` how it is scored (`Scoring.changed`); None is the task's own. `judge` is asked by the metrics that need
    one. `thinking` says whether the lengths of answers and thoughts are measured.
    """

    name: str
    decoding: DecodingChanges | None = None
    prompt: str | None = None
    chat: ChatSettings | None = None
    metric: str | None = None
    extractor: str | None = None
    gate: str | None = None
    reasoning: Reasoning | None = None
    thinking: ThinkingMeasured = "never"
    judge: JudgeChoice | None = None
    limit: int | None = None
    weight: float = 1.0
    data: Path | None = None

    @property
    def settings(self) -> TaskSettings:
        """What replaces the task's own settings."""
        return TaskSettings(
            prompt=self.prompt,
            chat=self.chat,
            decoding=self.decoding,
            metric=self.metric,
            extractor=self.extractor,
            gate=self.gate,
            reasoning=self.reasoning,
        )


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

    @property
    def longest(self) -> int:
        """The most tokens of a prompt and its answer; 0 where that is not known before it is asked."""
        ...

    def answer(self, engine: Engine, *, batches: Batches | None = None) -> ScoredTask:
        """Have the engine's model answer, in these new `batches`, and score every answer.

        Raises FloatingPointError when the logits are not finite.
        """
        ...

    def explained(self, scored: ScoredTask, loaded: LoadedModel) -> ScoredTask:
        """Return this task's answers, each with the prompt as it was sent, its length, and whether it was cut."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTask:
    """All answers to a task, in the task's order, how they were scored, and what they cost.

    The `name` is empty for saved answers that do not name a task. `measured` describes the whole scoring for people,
    the `metric` and the `gate` included. `absent` counts the samples that the machine could not have, by reason. `low`
    explains a score of almost 0, `thinking` measures the lengths of the answers. The answers to a sample that is asked
    repeatedly follow each other.
    """

    name: str
    metric: str
    measured: str
    gate: str | None
    answers: tuple[Answer, ...]
    absent: Mapping[str, int] = field(default_factory=dict)
    low: LowScore | None = None
    thinking: Thinking | None = None
    tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> TaskScore:
        """The means over all samples."""
        return replace(task_score(self.answers), low=self.low, thinking=self.thinking)

    def tagged(self, tag: str) -> TaskScore | None:
        """The means over the samples with this tag; None without such a sample."""
        tagged = [answer for answer in self.answers if tag in answer.sample.tags]
        return task_score(tagged) if tagged else None

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of its samples, sorted."""
        return tuple(sorted({tag for answer in self.answers for tag in answer.sample.tags}))

    @property
    def unscored(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the samples without a score, by reason; the most frequent reason comes first."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for answer in self.answers:
            if answer.unscored is not None:
                found[answer.unscored].append(answer.sample.id)
        return {reason: tuple(found[reason]) for reason in sorted(found, key=lambda reason: -len(found[reason]))}

    @property
    def by_id(self) -> Mapping[str, Answer]:
        """The first answer to each sample, by the samples' ids."""
        return {answer.sample.id: answer for answer in self.answers if answer.repeat == 0}

    def compared(self, other: ScoredTask) -> Comparison:
        """Compare the scores with another model's, sample by sample. Raises TaskError for different samples."""
        ours, theirs = (dict(zip(each.by_id, each.score.per_sample, strict=True)) for each in (self, other))
        return compare_by_id(ours, theirs)


def task_score(answers: Sequence[Answer]) -> TaskScore:
    """Return the means of the scores of one or more answers, those to a sample that is asked repeatedly in a row."""
    n, times = len(answers), 1 + max(answer.repeat for answer in answers)
    scores = [answer.score for answer in answers]
    repeats = [scores[number::times] for number in range(times)]
    return TaskScore(
        score=sum(scores) / n,
        ungated=sum(answer.ungated for answer in answers) / n,
        japanese=sum(answer.japanese for answer in answers) / n,
        per_sample=tuple(sum(each) / times for each in zip(*repeats, strict=True)),
        n=n // times,
        unscored=sum(answer.unscored is not None for answer in answers),
        repeats=tuple(sum(each) / len(each) for each in repeats) if times > 1 else (),
    )


def figures(score: TaskScore, *, metric: str) -> Mapping[str, object]:
    """Return the means by `metric` as plain values, each in [0, 1].

    For a metric that the paper's tables aggregate by bootstrap, `bootstrap_mid`, in [0, 1], is included beside `score`,
    the plain mean, for a comparison with those tables.
    """
    found: dict[str, object] = {"score": score.score, "interval": list(mean_interval(score.per_sample))}
    if metric in METRICS and METRICS[metric].bootstrapped:
        found["bootstrap_mid"] = bootstrap_mid(score.per_sample)
    return {**found, **score.figures(), "unscored": score.unscored}
