"""The entries of a journal, and each as one line of JSON; journal.py says what the kinds of lines are for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evovlm.foreign_json import JsonObject
from evovlm.recipes.candidate import Evaluation, Failure, Genome, Outcome, TaskScore, Thinking
from evovlm.recipes.low_score import LowScore

KINDS = ("candidate", "part", "rescored", "snapshot", "mean")
REASONS = ("candidates", "tokens", "seconds", "patience")
"""The keys of the budget that may end a search."""
WALL = "wall"
"""The key in a line's `seconds` of the wall-clock time since the line before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One line and its outcome: a candidate, a part of one, the distribution's mean before a `generation`
    ("snapshot") or at the end ("mean").

    `index` is the candidate's number, also for a part of it; for other kinds, the number of candidates before it.
    `wall_s` is the time since the entry before; `line` is the number of its line in the file that it was read from.
    """

    kind: str
    index: int
    generation: int
    genome: Genome
    recipe_id: str
    outcome: Outcome
    wall_s: float = 0.0
    line: int | None = None

    @property
    def evaluation(self) -> Evaluation | None:
        """The scores and the fitness; None if it failed."""
        return self.outcome.evaluation

    @property
    def failure(self) -> Failure | None:
        """Why it has no scores; None if it has them."""
        return self.outcome.failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The scores of a source alone on all samples of some tasks, measured before the first candidate."""

    source: str
    scores: Mapping[str, TaskScore]
    tokens: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why a search ended before a `generation`: `reason` is the key of the budget that was used up."""

    reason: str
    generation: int


def entry_row(entry: Entry) -> Mapping[str, object]:
    """Return an entry as plain values, with `seconds` last."""
    row: dict[str, object] = {
        "kind": entry.kind,
        "index": entry.index,
        "generation": entry.generation,
        "genome": entry.genome.tolist(),
        "recipe_id": entry.recipe_id,
    }
    wall = {WALL: entry.wall_s} if entry.wall_s else {}
    outcome = entry.outcome
    if outcome.evaluation is None:
        failure = {"kind": outcome.kind, "reason": outcome.reason}
        return {**row, "status": "failed", "failure": failure, "seconds": wall}
    figures = {"fitness": outcome.fitness, **({"goals": list(outcome.goals)} if outcome.goals else {})}
    return {
        **row,
        "status": "evaluated",
        **figures,
        "tokens": outcome.tokens,
        "scores": _score_rows(outcome.scores),
        "seconds": {**_rounded(outcome.seconds), **wall},
    }


def entry_of(row: JsonObject, *, line: int) -> Entry:
    """Return the entry that a line describes. Raises ValueError, with the field, for any other values."""
    kind, status, seconds = row.text("kind"), row.text("status"), _seconds_of(row)
    for key, found, known in (("kind", kind, KINDS), ("status", status, ("failed", "evaluated"))):
        if found not in known:
            raise ValueError(f"{key} is {found!r:.40}; it should be one of {', '.join(known)}")
    outcome: Outcome
    if status == "failed":
        failure = row.inside("failure")
        outcome = Failure(kind=failure.text("kind"), reason=failure.text("reason"))
    else:
        outcome = Evaluation(
            fitness=row.number("fitness"),
            goals=row.numbers("goals") if "goals" in row.values else (),
            tokens=row.count("tokens"),
            scores=_scores_of(row),
            seconds={stage: value for stage, value in seconds.items() if stage != WALL},
        )
    return Entry(
        kind=kind,
        index=row.count("index"),
        generation=row.count("generation"),
        genome=np.array(row.numbers("genome", low=0, high=1), dtype=np.float64),
        recipe_id=row.text("recipe_id"),
        outcome=outcome,
        wall_s=seconds.get(WALL, 0.0),
        line=line,
    )


def parent_row(parent: Parent) -> Mapping[str, object]:
    """Return a parent's scores as plain values, with `seconds` last."""
    return {
        "kind": "parent",
        "source": parent.source,
        "tokens": parent.tokens,
        "scores": _score_rows(parent.scores),
        "seconds": _rounded(parent.seconds),
    }


def parent_of(row: JsonObject) -> Parent:
    """Return the parent that a line describes. Raises ValueError, with the field, for any other values."""
    return Parent(
        source=row.text("source"), scores=_scores_of(row), tokens=row.count("tokens"), seconds=_seconds_of(row)
    )


def stop_of(row: JsonObject) -> Stop:
    """Return the stop that a line describes. Raises ValueError, with the field, for any other values."""
    reason = row.text("reason")
    if reason not in REASONS:
        raise ValueError(f"reason is {reason!r:.40}; it should be one of {', '.join(REASONS)}")
    return Stop(reason=reason, generation=row.count("generation"))


def stop_row(stop: Stop) -> Mapping[str, object]:
    """Return it as plain values."""
    return {"kind": "stop", "reason": stop.reason, "generation": stop.generation, "seconds": {}}


def _score_rows(scores: Mapping[str, TaskScore]) -> Mapping[str, object]:
    return {
        name: {
            **score.figures(),
            "unscored": score.unscored,
            "per_sample": list(score.per_sample),
            **({} if score.rows is None else {"rows": list(score.rows)}),
            **({} if score.low is None else {"low": score.low.as_row()}),
        }
        for name, score in scores.items()
    }


def _scores_of(row: JsonObject) -> Mapping[str, TaskScore]:
    scores = row.inside("scores")
    return {name: _score_of(scores.inside(name)) for name in scores.values}


def _score_of(row: JsonObject) -> TaskScore:
    n = row.count("n", low=1)
    repeats = row.numbers("repeats", low=0, high=1) if "repeats" in row.values else ()
    score = TaskScore(
        score=row.number("score", low=0, high=1),
        ungated=row.number("ungated", low=0, high=1),
        japanese=row.number("japanese", low=0, high=1),
        n=n,
        unscored=row.count("unscored", high=n * max(1, len(repeats))),
        per_sample=row.numbers("per_sample", low=0, high=1),
        rows=row.counts("rows") if "rows" in row.values else None,
        low=LowScore.of(row.inside("low")) if "low" in row.values else None,
        thinking=Thinking.of(row.inside("thinking")) if "thinking" in row.values else None,
        repeats=repeats,
    )
    for key, count in (("per_sample", len(score.per_sample)), ("rows", n if score.rows is None else len(score.rows))):
        if count != n:
            raise ValueError(f"{row.where}{key} has {count} numbers, but n is {n}")
    if score.rows is not None and len(set(score.rows)) < len(score.rows):
        raise ValueError(f"{row.where}rows names a sample twice")
    return score


def _seconds_of(row: JsonObject) -> Mapping[str, float]:
    seconds = row.inside("seconds")
    return {stage: seconds.number(stage, low=0) for stage in seconds.values}


def _rounded(seconds: Mapping[str, float]) -> Mapping[str, float]:
    return {stage: round(value, 4) for stage, value in seconds.items()}
