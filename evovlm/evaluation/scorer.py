"""Turns a scoring into a function that scores answers: opens what the metric needs, including a model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from evovlm.errors import TaskError
from evovlm.evaluation.judging import JudgeChoice, JudgeScorer, check_judge, open_judge
from evovlm.tasks.metrics.judges import JUDGES
from evovlm.tasks.metrics.library_metric import PREFIX, LibraryMetric, metric_code, open_library_metric
from evovlm.tasks.metrics.scoring import Answer, Measured, Scoring
from evovlm.tasks.metrics.table import Metric, check_scoring, score_answer, score_final
from evovlm.tasks.sample import Sample
from evovlm.thoughts import ThoughtMarks, marks_of

Scorer: TypeAlias = Callable[[Sample, str], Answer]

# Hessel et al. 2021 (CLIPScore), equation 1: w = 2.5 stretches cosines, which rarely exceed 0.4.
_CLIP_SCORE_FACTOR = 2.5


def check_scorer(scoring: Scoring, *, judge: JudgeChoice | None = None) -> Metric:
    """Return the metric of a scoring. Raises TaskError as `open_scorer` does, but loads no model and runs no script."""
    metric = check_scoring(scoring)
    check_judge(scoring, judge)
    if scoring.metric.startswith(PREFIX):
        metric_code(scoring.metric)
    elif metric.takes_clip and scoring.clip_model is None:
        raise TaskError(
            f"The metric {scoring.metric} compares answers with pictures and needs an open_clip model.\n"
            "    Name one with the task's `clip_model` or --clip-model, for example ViT-B-32:laion2b_s34b_b79k."
        )
    return metric


def open_scorer(
    scoring: Scoring,
    *,
    marks: ThoughtMarks | None = None,
    device: str = "auto",
    judge: JudgeChoice | None = None,
    allow_code: bool = False,
) -> Scorer:
    """Return what scores an answer to a sample; a metric's model or script is loaded now, a judge is not asked yet.

    `marks` are those of thoughts in the model's texts (None: what the scoring says).

    Raises CodeNotAllowed for a metric script without `allow_code`; TaskError for a metric, extractor or gate that does
    not exist, or a metric's script or model that is not named or not available; and what `load_clip` raises.
    """
    metric = check_scorer(scoring, judge=judge)
    marks = marks or marks_of(scoring.reasoning)
    if judge is not None and scoring.metric in JUDGES:
        return JudgeScorer(judge=open_judge(judge), scoring=scoring, marks=marks)
    if scoring.metric.startswith(PREFIX):
        return _library_scorer(scoring, open_library_metric(scoring.metric, allow_code=allow_code), marks=marks)
    if metric.measure is not None or scoring.clip_model is None:
        return partial(score_answer, scoring, marks=marks)
    return _open_clip_scorer(scoring, scoring.clip_model, marks=marks, device=device)


def score_several(scorer: Scorer, answers: Sequence[tuple[Sample, str]]) -> list[Answer]:
    """Return answers with their scores, in their order; a judge is asked several questions at a time."""
    if isinstance(scorer, JudgeScorer):
        return scorer.several(answers)
    return [scorer(sample, text) for sample, text in answers]


def _library_scorer(scoring: Scoring, metric: LibraryMetric, *, marks: ThoughtMarks) -> Scorer:
    def score(sample: Sample, text: str) -> Answer:
        return score_final(
            lambda final: Measured(values=metric.values(references=sample.references, text=final)),
            sample,
            text,
            gate=scoring.gate,
            marks=marks,
        )

    return score


def _open_clip_scorer(scoring: Scoring, clip_model: str, *, marks: ThoughtMarks, device: str) -> Scorer:
    """Return CLIPScore: 2.5 times the cosine of answer and picture, kept in [0, 1]; over several pictures the mean.

    The answer is used as it is, without the paper's prefix "A photo depicts", which is English. Needs no reference.
    """
    import torch

    from evovlm.models.pictures.clip import load_clip

    clip = load_clip(clip_model, device=device)
    pictures: dict[str, torch.Tensor] = {}

    def measure(sample: Sample, text: str) -> Measured:
        if not sample.images:
            return Measured(values=(0.0,) * len(sample.references), unscored="no picture")
        if not text.strip():
            return Measured(values=(0.0,) * len(sample.references), unscored="no text")
        new = {image.key: image for image in sample.images if image.key not in pictures}
        if new:
            try:
                rows = clip.embed_images([image.load() for image in new.values()])
            except TaskError as error:
                return Measured(values=(0.0,) * max(1, len(sample.references)), unscored=str(error))
            pictures.update(zip(new, rows, strict=True))
        cosines = torch.stack([pictures[image.key] for image in sample.images]) @ clip.embed_texts([text])[0]
        value = float((_CLIP_SCORE_FACTOR * cosines.clamp(min=0.0)).clamp(max=1.0).mean())
        return Measured(values=(value,) * max(1, len(sample.references)))

    def score(sample: Sample, text: str) -> Answer:
        return score_final(partial(measure, sample), sample, text, gate=scoring.gate, marks=marks)

    return score
