"""What a score is made of: which metric, how the answer is read from the text, which language it must be in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How answers are scored: `metric` names a row of METRICS, or `evaluate:NAME_OR_PATH` (library_metric.py).

    `extractor` names a row of EXTRACTORS, for metrics that compare numbers. `gate` names a row of GATES: an answer in
    another language than Japanese then scores 0; None asks for no language. `clip_model` is the open_clip model of
    `clip_score` (models/clip.py says how it is named).
    """

    metric: str
    extractor: str = "robust"
    gate: str | None = None
    clip_model: str | None = None

    def __str__(self) -> str:
        parts = [self.metric]
        if self.metric == "accuracy":
            parts.append(f"{self.extractor} extractor")
        if self.clip_model is not None:
            parts.append(self.clip_model)
        parts.append("no gate" if self.gate is None else f"{self.gate} gate")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleScore:
    """The score of one answer, in [0, 1].

    `ungated` is the score whatever the language; `japanese` whether the answer is Japanese, or had no need to be
    because no reference is; `extracted` what was read from it, where the metric reads something. `unscored` says why
    there is nothing to score (no answer found in the text, or none could be had); such an answer scores 0 and is
    counted apart from wrong ones.
    """

    score: float
    ungated: float
    japanese: bool
    extracted: str | None = None
    unscored: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a metric finds, before any gate: a value in [0, 1] for each reference, what it read, why it found none.

    For a sample without references it is one value, or none at all.
    """

    values: tuple[float, ...]
    extracted: str | None = None
    unscored: str | None = None
