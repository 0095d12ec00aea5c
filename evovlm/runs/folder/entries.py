"""The entries of a journal, and each as one line of JSON; journal.py says what the kinds of lines are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evovlm.recipes.candidate import Evaluation, Failure, Genome, TaskScore
from evovlm.search.loop import Outcome

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
        return self.outcome if isinstance(self.outcome, Evaluation) else None

    @property
    def failure(self) -> Failure | None:
        """Why there are no scores; None if there are."""
        return self.outcome if isinstance(self.outcome, Failure) else None


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
    if isinstance(outcome, Failure):
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


def entry_of(row: Mapping[str, Any], *, line: int) -> Entry:
    """Return the entry that plain values describe. Raises KeyError, TypeError or ValueError for other values."""
    outcome: Outcome
    if row["status"] == "failed":
        outcome = Failure(kind=row["failure"]["kind"], reason=row["failure"]["reason"])
    else:
        outcome = Evaluation(
            fitness=row["fitness"],
            goals=tuple(row.get("goals", ())),
            tokens=row["tokens"],
            scores=_scores_of(row["scores"]),
            seconds={stage: value for stage, value in row["seconds"].items() if stage != WALL},
        )
    return Entry(
        kind=row["kind"],
        index=row["index"],
        generation=row["generation"],
        genome=np.array(row["genome"], dtype=np.float64),
        recipe_id=row["recipe_id"],
        outcome=outcome,
        wall_s=row.get("seconds", {}).get(WALL, 0.0),
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


def parent_of(row: Mapping[str, Any]) -> Parent:
    """Return the parent that plain values describe. Raises KeyError, TypeError or ValueError for other values."""
    return Parent(
        source=row["source"], scores=_scores_of(row["scores"]), tokens=row["tokens"], seconds=dict(row["seconds"])
    )


def stop_row(stop: Stop) -> Mapping[str, object]:
    """Return it as plain values."""
    return {"kind": "stop", "reason": stop.reason, "generation": stop.generation, "seconds": {}}


def _score_rows(scores: Mapping[str, TaskScore]) -> Mapping[str, object]:
    return {
        name: {
            "score": score.score,
            "ungated": score.ungated,
            "japanese": score.japanese,
            "n": score.n,
            "unscored": score.unscored,
            "per_sample": list(score.per_sample),
            **({} if score.rows is None else {"rows": list(score.rows)}),
        }
        for name, score in scores.items()
    }


def _scores_of(rows: Mapping[str, Any]) -> Mapping[str, TaskScore]:
    return {
        name: TaskScore(
            score=score["score"],
            ungated=score["ungated"],
            japanese=score["japanese"],
            n=score["n"],
            unscored=score["unscored"],
            per_sample=tuple(score["per_sample"]),
            rows=tuple(score["rows"]) if "rows" in score else None,
        )
        for name, score in rows.items()
    }


def _rounded(seconds: Mapping[str, float]) -> Mapping[str, float]:
    return {stage: round(value, 4) for stage, value in seconds.items()}
