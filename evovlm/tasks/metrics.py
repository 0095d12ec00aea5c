"""How an answer is scored: a table of metrics, each from 0 (wrong) to 1 (right).

The metrics that ask for Japanese score an answer in another language 0; the score it would have had is kept beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from evovlm.errors import TaskError
from evovlm.tasks.answers import EXTRACTORS
from evovlm.tasks.japanese import fasttext_share, is_japanese_script
from evovlm.tasks.rouge import rouge_l
from evovlm.tasks.task import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScore:
    """The score of one answer, in [0, 1].

    `ungated` is the score whatever the language; `japanese` whether the answer is Japanese, or had no need to be
    because no reference is; `extracted` the number read from it, where the metric reads one.
    """

    score: float
    ungated: float
    japanese: bool
    extracted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One way to score an answer. `binary` says that every answer scores either 0 or 1."""

    name: str
    description: str
    binary: bool
    score: Callable[[Sample, str], SampleScore]


def score_answers(metric: str, samples: Sequence[Sample], texts: Sequence[str]) -> tuple[SampleScore, ...]:
    """Score one answer per sample. Raises TaskError when there is no such metric, ValueError for unequal lengths."""
    if metric not in METRICS:
        raise TaskError(f"There is no metric {metric!r}. The metrics are: {', '.join(sorted(METRICS))}.")
    return tuple(METRICS[metric].score(sample, text) for sample, text in zip(samples, texts, strict=True))


def _surely_japanese(text: str) -> bool:
    return fasttext_share(text) > 0.5


def _probably_japanese(text: str) -> bool:
    # The paper's code takes exactly one half for Japanese in the ROUGE metrics, and for foreign in the accuracy.
    return fasttext_share(text) >= 0.5


def _accuracy(
    sample: Sample, text: str, *, extractor: str, is_japanese: Callable[[str], bool], gated: bool
) -> SampleScore:
    number = EXTRACTORS[extractor](text)
    right = float(number is not None and any(_same(number, reference) for reference in sample.references))
    japanese = is_japanese(text)
    extracted = None if number is None else f"{number:.15g}"
    return SampleScore(
        score=right if japanese or not gated else 0.0, ungated=right, japanese=japanese, extracted=extracted
    )


def _same(number: float, reference: str) -> bool:
    try:
        return math.isclose(number, float(reference), rel_tol=1e-9)
    except ValueError as problem:
        raise TaskError(
            f"The reference {reference!r} is not a number, and the accuracy metrics compare numbers. Correct the "
            "task's data or use a ROUGE metric."
        ) from problem


def _rouge(sample: Sample, text: str, *, is_japanese: Callable[[str], bool], gated: bool) -> SampleScore:
    japanese = is_japanese(text)
    plain = [rouge_l(reference, text) for reference in sample.references]
    # A reference such as "UFO" is no Japanese itself and asks for none.
    free = [not is_japanese(reference) for reference in sample.references]
    kept = [value for value, exempt in zip(plain, free, strict=True) if japanese or exempt or not gated]
    return SampleScore(
        score=max(kept, default=0.0), ungated=max(plain, default=0.0), japanese=japanese or (gated and all(free))
    )


_ROWS = (
    Metric(
        name="accuracy_ja",
        description="the number is right and the answer is written in Japanese (script)",
        binary=True,
        score=partial(_accuracy, extractor="robust", is_japanese=is_japanese_script, gated=True),
    ),
    Metric(
        name="accuracy",
        description="the number is right, in any language",
        binary=True,
        score=partial(_accuracy, extractor="robust", is_japanese=is_japanese_script, gated=False),
    ),
    Metric(
        name="accuracy_ja_paper",
        description="as in the paper: its reading of numbers, slips included, and p(ja) > 0.5 by fastText",
        binary=True,
        score=partial(_accuracy, extractor="paper", is_japanese=_surely_japanese, gated=True),
    ),
    Metric(
        name="rouge_l_ja",
        description="as in the paper: ROUGE-L over MeCab words, 0 unless Japanese (p(ja) >= 0.5 by fastText)",
        binary=False,
        score=partial(_rouge, is_japanese=_probably_japanese, gated=True),
    ),
    Metric(
        name="rouge_l_ja_script",
        description="ROUGE-L over MeCab words, 0 unless Japanese (script); for answers of a word or two",
        binary=False,
        score=partial(_rouge, is_japanese=is_japanese_script, gated=True),
    ),
    Metric(
        name="rouge_l",
        description="ROUGE-L over MeCab words, in any language",
        binary=False,
        score=partial(_rouge, is_japanese=is_japanese_script, gated=False),
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}
