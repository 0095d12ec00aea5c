"""How answers are scored (metric, extractor, language gate), and one answer with its score."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from evovlm.tasks.metrics.judges import JUDGES
from evovlm.tasks.sample import Sample
from evovlm.thoughts import AUTO, Reasoning, reasoning_of, reasoning_text

NO_GATE = "none"
"""Given instead of a gate: answers in any language count."""
_REASONING = "reasoning "


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How answers are scored: `metric` names a row of METRICS, or `evaluate:NAME_OR_PATH` (library_metric.py).

    `extractor` names a row of EXTRACTORS, for metrics that compare numbers. `gate` names a row of GATES: an answer that
    is not Japanese then scores 0; with None, any language counts. `clip_model` is the open_clip model of `clip_score`,
    named as in models/pictures/clip.py; `judge` is the model that judges, for the metrics of judges.py. `reasoning`
    says what marks a thought, which is not scored (thoughts.py).
    """

    metric: str
    extractor: str = "robust"
    gate: str | None = None
    clip_model: str | None = None
    # Not in the repr of a scoring, which is part of the fingerprints of earlier scorings.
    reasoning: Reasoning = field(default=AUTO, repr=False)
    judge: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [self.metric]
        if self.metric == "accuracy":
            parts.append(f"{self.extractor} extractor")
        parts += [model for model in (self.clip_model, self.judge) if model is not None]
        parts.append("no gate" if self.gate is None else f"{self.gate} gate")
        if self.reasoning != AUTO:
            parts.append(f"{_REASONING}{reasoning_text(self.reasoning)}")
        return ", ".join(parts)

    def changed(
        self,
        *,
        metric: str | None = None,
        extractor: str | None = None,
        gate: str | None = None,
        clip_model: str | None = None,
        reasoning: Reasoning | None = None,
        judge: str | None = None,
    ) -> "Scoring":
        """Return the scoring with other parts; None keeps a part, the gate NO_GATE removes the gate."""
        return Scoring(
            metric=metric or self.metric,
            extractor=extractor or self.extractor,
            gate=self.gate if gate is None else None if gate == NO_GATE else gate,
            clip_model=clip_model or self.clip_model,
            reasoning=reasoning or self.reasoning,
            judge=judge or self.judge,
        )

    @classmethod
    def parse(cls, text: str) -> "Scoring":
        """Return the scoring whose text this is. Raises ValueError for another text."""
        rest, marked, reasoning = text.partition(f", {_REASONING}")
        metric, *between, gate = rest.split(", ")
        found = cls(
            metric=metric,
            gate=None if gate == "no gate" else gate.removesuffix(" gate"),
            reasoning=reasoning_of(reasoning) if marked else AUTO,
        )
        if metric == "accuracy" and between:
            found = replace(found, extractor=between.pop(0).removesuffix(" extractor"))
        if between:
            found = replace(found, **{"judge" if metric in JUDGES else "clip_model": ", ".join(between)})
        if str(found) != text:
            raise ValueError(f"{text!r:.200} is not a scoring")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How an answer came about: the `prompt` with its special tokens, the answer's `tokens`, and whether it was cut."""

    prompt: str
    tokens: int
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer to one sample, and its `score` in [0, 1].

    `ungated` is the score in any language; `japanese` whether the answer is Japanese, or need not be because no
    reference is; `extracted` the part that the metric read, if it reads one. `unscored` says why there is nothing to
    score (no answer found in the text, or the model gave none); such an answer scores 0 and is counted separately from
    wrong ones. `repeat` counts the answers to the same sample, from 0; `sent` is known of answers that are kept.
    """

    sample: Sample
    text: str
    score: float
    ungated: float
    japanese: bool
    extracted: str | None = None
    unscored: str | None = None
    repeat: int = 0
    sent: Sent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The result of a metric before the gate: a value in [0, 1] per reference, the part read, the reason for none.

    For a sample without references there is one value, or none.
    """

    values: tuple[float, ...]
    extracted: str | None = None
    unscored: str | None = None


def clip_name_from(folder: Path, name: str) -> str:
    """Return the name of an open_clip model; a path in it, relative to `folder`, is made absolute."""
    if (folder / name).is_dir():
        return str((folder / name).resolve())
    architecture, colon, weights = name.partition(":")
    if colon and (folder / weights).is_file():
        return f"{architecture}:{(folder / weights).resolve()}"
    return name
