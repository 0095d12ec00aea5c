"""The table of metrics, each from 0 (wrong) to 1 (right), and how a language gate applies to them.

An answer that does not pass the gate scores 0; its score without the gate is kept too.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from evovlm.errors import TaskError
from evovlm.plugins import PluginTable
from evovlm.recipes.problems import did_you_mean
from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.choices import read_choice
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.judges import JUDGES
from evovlm.tasks.metrics.library_metric import PREFIX
from evovlm.tasks.metrics.math_answers import same_math
from evovlm.tasks.metrics.references import number_of
from evovlm.tasks.metrics.rouge import rouge_1, rouge_2, rouge_l
from evovlm.tasks.metrics.scoring import Answer, Measured, Scoring
from evovlm.tasks.metrics.short_answers import quasi_char_f1
from evovlm.tasks.metrics.text_match import char_f1, contains, exact_match, jdocqa_value, ocr_f1
from evovlm.tasks.sample import Sample
from evovlm.thoughts import NOT_FINISHED, ThoughtMarks, check_reasoning, marks_of, split_thought

_MOST_CHARACTERS = 50_000
"""The longest text that is compared by words: MeCab takes seconds for it, and crashes at a few times as many."""

CLIP_SCORE = "clip_score"
Measure: TypeAlias = Callable[[Sample, str, Scoring], Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A way to score an answer.

    `binary`: every answer scores either 0 or 1. `numeric`: it reads a number from a worked solution; then the language
    of the whole text counts, and no reference exempts from it. `bootstrapped`: the paper's tables show the median of a
    bootstrap (`rouge.bootstrap_mid`) instead of the mean. `measure` is None if a model or a script must be opened
    first: `evaluation.scorer.open_scorer` does that.
    """

    name: str
    description: str
    binary: bool = False
    numeric: bool = False
    bootstrapped: bool = False
    measure: Measure | None

    @property
    def takes_clip(self) -> bool:
        """Whether it compares answers with pictures through an open_clip model."""
        return self.name == CLIP_SCORE


def get_metric(name: str) -> Metric:
    """Return the metric of that name, or the one named by `evaluate:...`. Raises TaskError for an unknown name."""
    if name.startswith(PREFIX):
        return Metric(name=name, description="a metric of the evaluate library", measure=None)
    if name not in METRICS:
        raise TaskError(
            f"Unknown metric '{name}'{did_you_mean(name, METRICS)} Those of `evaluate` are {PREFIX}NAME_OR_PATH."
        )
    return METRICS[name]


def check_scoring(scoring: Scoring) -> Metric:
    """Return the metric of a scoring. Raises TaskError for an unknown metric, extractor, gate or reasoning."""
    check_reasoning(scoring.reasoning)
    metric = get_metric(scoring.metric)
    if scoring.extractor not in EXTRACTORS:
        raise TaskError(f"Unknown extractor '{scoring.extractor}'{did_you_mean(scoring.extractor, EXTRACTORS)}")
    if scoring.gate is not None and scoring.gate not in GATES:
        raise TaskError(f"Unknown gate '{scoring.gate}'{did_you_mean(scoring.gate, [*GATES, 'none'])}")
    return metric


def score_answers(scoring: Scoring, samples: Sequence[Sample], texts: Sequence[str]) -> tuple[Answer, ...]:
    """Score one answer per sample. Raises what `score_answer` does, and ValueError for unequal lengths."""
    check_scoring(scoring)
    return tuple(score_answer(scoring, sample, text) for sample, text in zip(samples, texts, strict=True))


def score_answer(scoring: Scoring, sample: Sample, text: str, *, marks: ThoughtMarks | None = None) -> Answer:
    """Score one answer; `marks` are those of thoughts in the model's texts (None: what the scoring says).

    Raises TaskError for an unknown metric, one that takes a model or runs a script, and references that it cannot
    compare with.
    """
    metric = get_metric(scoring.metric)
    if metric.measure is None:
        raise TaskError(
            f"The metric {metric.name} takes a model or a script: use `open_scorer` of evovlm.evaluation.scorer."
        )
    measure = metric.measure
    return score_final(
        lambda final: measure(sample, final, scoring),
        sample,
        text,
        gate=scoring.gate,
        marks=marks or marks_of(scoring.reasoning),
        numeric=metric.numeric,
    )


def score_final(
    measure: Callable[[str], Measured],
    sample: Sample,
    text: str,
    *,
    gate: str | None,
    marks: ThoughtMarks,
    numeric: bool = False,
) -> Answer:
    """Score the final part of a text, which follows the thought, with `measure` and the gate.

    Without a gate, the script decides what is Japanese. A thought that never ends is unscored.
    """
    final = split_thought(text, marks).final
    if final is None:
        return Answer(sample=sample, text=text, score=0.0, ungated=0.0, japanese=False, unscored=NOT_FINISHED)
    measured = measure(final)
    chosen = GATES[gate or "script"]
    japanese = chosen.passes(final, for_numbers=numeric)
    # A reference such as "UFO" is not Japanese and needs no Japanese answer; without references nothing is exempt.
    free = [not numeric and not chosen.passes(reference) for reference in sample.references] or [False]
    values = measured.values or (0.0,)
    kept = [value for value, exempt in zip(values, free, strict=True) if japanese or exempt or gate is None]
    return Answer(
        sample=sample,
        text=text,
        score=max(kept, default=0.0),
        ungated=max(values),
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
    wanted = number_of(reference)
    if wanted is None:
        raise TaskError(
            f"The reference {reference!r} is not a number, and the accuracy metrics compare numbers. Correct the "
            "task's data or use another metric, such as rouge_l_ja or exact_match."
        )
    return math.isclose(number, float(wanted), rel_tol=1e-9)


def _multiple_choice(sample: Sample, text: str, _scoring: Scoring) -> Measured:
    for reference in sample.references:
        if len(reference) != 1 or not "A" <= reference <= "Z":
            raise TaskError(
                f"The reference {reference!r} of the sample {sample.id} is not the letter of an option (A for the "
                "first), and multiple_choice compares letters. Correct the task's data or use another metric."
            )
    letter = read_choice(text, sample.choices)
    if letter is None:
        return Measured(values=(0.0,) * len(sample.references), unscored="no option found")
    return Measured(values=tuple(float(letter == reference) for reference in sample.references), extracted=letter)


def _jdocqa(sample: Sample, text: str, scoring: Scoring) -> Measured:
    return _by_words(partial(jdocqa_value, tags=sample.tags), sample, text, scoring)


def _by_words(value: Callable[[str, str], float], sample: Sample, text: str, scoring: Scoring) -> Measured:
    longest = max(map(len, (text, *sample.references)))
    if longest > _MOST_CHARACTERS:
        reason = f"a text of {longest:,} characters, and at most {_MOST_CHARACTERS:,} are compared by words"
        return Measured(values=(0.0,) * len(sample.references), unscored=reason)
    return _by_reference(value, sample, text, scoring)


def _by_reference(value: Callable[[str, str], float], sample: Sample, text: str, _scoring: Scoring) -> Measured:
    return Measured(values=tuple(value(reference, text) for reference in sample.references))


_ROWS = (
    Metric(
        name="accuracy",
        description="the number that the answer ends in is right",
        binary=True,
        numeric=True,
        measure=_accuracy,
    ),
    *(
        Metric(name=name, description=description, bootstrapped=True, measure=partial(_by_words, value))
        for name, description, value in (
            ("rouge_l_ja", "as in the paper: ROUGE-L (F1) over MeCab words", rouge_l),
            ("rouge_1_ja", "ROUGE-1 (F1) over MeCab words", rouge_1),
            ("rouge_2_ja", "ROUGE-2 (F1) over MeCab words", rouge_2),
        )
    ),
    Metric(
        name="char_f1",
        description="F1 over characters, as SQuAD's over words; widths, case and punctuation aside",
        measure=partial(_by_reference, char_f1),
    ),
    Metric(
        name="exact_match",
        description="the answer is the reference; widths, quotes and closing punctuation aside",
        binary=True,
        measure=partial(_by_reference, exact_match),
    ),
    Metric(
        name="contains",
        description="the answer contains the reference",
        binary=True,
        measure=partial(_by_reference, contains),
    ),
    Metric(
        name="ocr_f1",
        description="F1 over the characters of all text in a picture; blanks and case are ignored",
        measure=partial(_by_reference, ocr_f1),
    ),
    Metric(
        name="jemhopqa",
        description="F1 over the characters of the short answer, as in the Swallow leaderboard",
        measure=partial(_by_words, quasi_char_f1),
    ),
    Metric(
        name="math_answer",
        description="the number or formula that the answer ends in is right",
        binary=True,
        measure=partial(_by_words, same_math),
    ),
    Metric(
        name="multiple_choice",
        description="the option that the answer names, by its letter or its text, is right",
        binary=True,
        measure=_multiple_choice,
    ),
    Metric(
        name="jdocqa",
        description="JDocQA's own: substring for yes/no, factoid and numerical questions, sentence BLEU for open ones",
        measure=_jdocqa,
    ),
    *(Metric(name=row.name, description=row.description, measure=None) for row in JUDGES.values()),
    Metric(
        name=CLIP_SCORE,
        description="CLIPScore: how well the answer describes the picture to an open_clip model; needs no reference",
        measure=None,
    ),
)
METRICS: Mapping[str, Metric] = PluginTable(
    "evovlm.metrics", {metric.name: metric for metric in _ROWS}, row_type=Metric
)
