"""How an answer is scored: a table of metrics, each from 0 (wrong) to 1 (right), and a language gate over them.

An answer that does not pass the gate scores 0; the score it would have had is kept beside it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evovlm.errors import TaskError
from evovlm.tasks.answers import EXTRACTORS
from evovlm.tasks.gates import GATES
from evovlm.tasks.rouge import rouge_l
from evovlm.tasks.sample import Sample
from evovlm.tasks.scoring import Measured, SampleScore, Scoring


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One way to score an answer.

    `binary` says that every answer scores either 0 or 1; `numeric` that it reads a number out of a worked solution:
    then the language of the whole text counts, and no reference exempts from it.
    """

    name: str
    description: str
    binary: bool
    numeric: bool
    measure: Callable[[Sample, str, Scoring], Measured]


def score_answers(scoring: Scoring, samples: Sequence[Sample], texts: Sequence[str]) -> tuple[SampleScore, ...]:
    """Score one answer per sample. Raises TaskError when there is no such metric, ValueError for unequal lengths."""
    if scoring.metric not in METRICS:
        raise TaskError(f"There is no metric {scoring.metric!r}. The metrics are: {', '.join(sorted(METRICS))}.")
    return tuple(score_answer(scoring, sample, text) for sample, text in zip(samples, texts, strict=True))


def score_answer(scoring: Scoring, sample: Sample, text: str) -> SampleScore:
    """Score one answer."""
    metric = METRICS[scoring.metric]
    return gated(
        metric.measure(sample, text, scoring), sample=sample, text=text, gate=scoring.gate, numeric=metric.numeric
    )


def gated(measured: Measured, *, sample: Sample, text: str, gate: str | None, numeric: bool) -> SampleScore:
    """Return the score of what was measured, after the gate. Without a gate, Japanese is told by the script."""
    chosen = GATES[gate or "script"]
    japanese = chosen.passes(text, for_numbers=numeric)
    # A reference such as "UFO" is no Japanese itself and asks for none.
    free = [not numeric and not chosen.passes(reference) for reference in sample.references]
    kept = [value for value, exempt in zip(measured.values, free, strict=True) if japanese or exempt or gate is None]
    return SampleScore(
        score=max(kept, default=0.0),
        ungated=max(measured.values, default=0.0),
        japanese=japanese or (gate is not None and all(free)),
        extracted=measured.extracted,
        unscored=measured.unscored,
    )


def _accuracy(sample: Sample, text: str, scoring: Scoring) -> Measured:
    number = EXTRACTORS[scoring.extractor](text)
    if number is None:
        return Measured(values=(0.0,) * len(sample.references), unscored="no number found")
    values = tuple(float(_same(number, reference)) for reference in sample.references)
    return Measured(values=values, extracted=f"{number:.15g}")


def _same(number: float, reference: str) -> bool:
    try:
        return math.isclose(number, float(reference), rel_tol=1e-9)
    except ValueError as problem:
        raise TaskError(
            f"The reference {reference!r} is not a number, and the accuracy metrics compare numbers. Correct the "
            "task's data or use a ROUGE metric."
        ) from problem


def _rouge_l(sample: Sample, text: str, _scoring: Scoring) -> Measured:
    return Measured(values=tuple(rouge_l(reference, text) for reference in sample.references))


_ROWS = (
    Metric(
        name="accuracy",
        description="the number that the answer ends in is right",
        binary=True,
        numeric=True,
        measure=_accuracy,
    ),
    Metric(
        name="rouge_l_ja",
        description="as in the paper: ROUGE-L (F1) over MeCab words",
        binary=False,
        numeric=False,
        measure=_rouge_l,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ROWS}
