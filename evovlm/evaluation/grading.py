"""Scores saved predictions, without a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evovlm.errors import TaskError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.comparison import Comparison
from evovlm.evaluation.judging import JudgeChoice, JudgeScorer, with_judge
from evovlm.evaluation.predictions import Prediction
from evovlm.evaluation.scorer import Scorer, open_scorer
from evovlm.tasks.catalogue import TASKS
from evovlm.tasks.metrics.scoring import Answer, Scoring
from evovlm.tasks.metrics.table import get_metric
from evovlm.thoughts import Reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringChoice:
    """What replaces parts of the task's own scoring; None keeps a part, the gate "none" removes the gate."""

    metric: str | None = None
    extractor: str | None = None
    gate: str | None = None
    clip_model: str | None = None
    reasoning: Reasoning | None = None
    judge: JudgeChoice | None = None

    def over(self, task: str | None, saved: Mapping[str, Scoring]) -> Scoring:
        """Return the scoring of a task's predictions, of which some were `saved` with their scoring.

        Raises TaskError when nothing names a metric.
        """
        own = None if task is None else TASKS[task].scoring if task in TASKS else saved.get(task)
        if own is None and self.metric is None:
            whose = "do not name a task" if task is None else f"are of the task '{task}', which is not in the table"
            raise TaskError(f"The predictions {whose}, so that the metric is unknown. Name one with --metric.")
        scoring = own or Scoring(metric=self.metric or "")
        scoring = scoring.changed(
            metric=self.metric,
            extractor=self.extractor,
            gate=self.gate,
            clip_model=self.clip_model,
            reasoning=self.reasoning,
        )
        return with_judge(scoring, self.judge)


def grade(
    predictions: Sequence[Prediction],
    choice: ScoringChoice,
    *,
    saved: Mapping[str, Scoring] | None = None,
    device: str = "auto",
    allow_code: bool = False,
) -> tuple[ScoredTask, ...]:
    """Score predictions, task by task in the order of their first prediction; a task that is not named has no name.

    `saved` is how tasks of the user's own were scored. Raises TaskError, naming the row, for references that the metric
    cannot compare with, and what `open_scorer` does.
    """
    tasks = dict.fromkeys(each.task for each in predictions)
    scorings = {task: choice.over(task, saved or {}) for task in tasks}
    scorers = {
        scoring: open_scorer(scoring, device=device, judge=choice.judge, allow_code=allow_code)
        for scoring in dict.fromkeys(scorings.values())
    }
    for each in predictions:
        name = scorings[each.task].metric
        if not each.sample.references and get_metric(name).measure is not None:
            raise TaskError(
                f"{each.where}: has no reference answer, which {name} compares with. Add it, or delete the row."
            )
    return tuple(
        ScoredTask(
            name=task or "",
            metric=scoring.metric,
            measured=str(scoring),
            gate=scoring.gate,
            answers=tuple(_scored(scorers[scoring], [each for each in predictions if each.task == task])),
        )
        for task, scoring in scorings.items()
    )


def compare_graded(first: Sequence[ScoredTask], second: Sequence[ScoredTask]) -> dict[str, Comparison]:
    """Compare two models task by task; if each has a single task, these are compared whatever their names.

    Raises TaskError when they have no task in common, or different samples.
    """
    if len(first) == len(second) == 1:
        return {first[0].name: first[0].compared(second[0])}
    others = {each.name: each for each in second}
    shared = [each for each in first if each.name in others]
    if not shared:
        sides = [", ".join(each.name or "rows without a task" for each in side) for side in (first, second)]
        raise TaskError(f"No task to compare: the first file has {sides[0]}, the second has {sides[1]}.")
    return {each.name: each.compared(others[each.name]) for each in shared}


def _scored(scorer: Scorer, predictions: Sequence[Prediction]) -> Iterator[Answer]:
    def one(prediction: Prediction) -> Answer:
        try:
            return scorer(prediction.sample, prediction.text)
        except TaskError as error:
            raise TaskError(f"{prediction.where}: {error}") from error

    if isinstance(scorer, JudgeScorer):
        found = scorer.several([(each.sample, each.text) for each in predictions])
    else:
        found = [one(each) for each in predictions]
    for prediction, answer in zip(predictions, found, strict=True):
        yield replace(answer, repeat=prediction.repeat)
