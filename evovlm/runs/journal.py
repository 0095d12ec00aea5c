"""The journal of a run: one line a candidate, appended and flushed to disk before the search goes on.

    {"kind": "header", "format": 1, "config": {...}}
    {"kind": "candidate", "index": 0, "generation": 0, "genome": [...], "recipe_id": "...", "fitness": 0.42,
     "tokens": 5081, "scores": {"word_problems_ja": {...}}, "seconds": {"merge": 0.02, "generate": 1.1}}

`seconds` is the only thing in it that two runs of one config do not share, and stands last in its line.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evovlm.errors import RunMismatch
from evovlm.recipes.candidate import Evaluation, Failure, Genome, TaskScore
from evovlm.search.loop import Outcome

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One line: a candidate (`kind` "candidate"; "mean" for the distribution's mean at the end) and its outcome."""

    kind: str
    index: int
    generation: int
    genome: Genome
    recipe_id: str
    outcome: Outcome


@dataclass(slots=True, kw_only=True, eq=False)
class Journal:
    """An open journal; `entries` are those on disk when it was opened and those appended since."""

    path: Path
    entries: list[Entry]

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, object]) -> "Journal":
        """Start a journal with its header."""
        journal = cls(path=path, entries=[])
        journal._append_line({"kind": "header", "format": FORMAT, "config": config})
        return journal

    @classmethod
    def open(cls, path: Path) -> tuple["Journal", Mapping[str, object]]:
        """Open a journal to go on with: a torn last line is cut off. Returns it and the header's config.

        Raises RunMismatch when the file is no journal of this format or a line before the last is broken.
        """
        lines = _whole_lines(path)
        rows = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
        if not rows or rows[0].get("kind") != "header" or rows[0].get("format") != FORMAT:
            raise RunMismatch(f"{path}: does not begin as a journal of format {FORMAT}. Start again in a new folder.")
        return cls(path=path, entries=[_entry(row) for row in rows[1:]]), rows[0]["config"]

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk."""
        self._append_line(_row(entry))
        self.entries.append(entry)

    def _append_line(self, row: Mapping[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path) -> tuple[tuple[Entry, ...], Mapping[str, object]]:
    """Return the entries and the config of a journal that may still be growing; a torn last line is left out."""
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    if not rows:
        raise RunMismatch(f"{path}: is empty.")
    return tuple(_entry(row) for row in rows[1:]), rows[0]["config"]


def _whole_lines(path: Path) -> list[bytes]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        # Killed while writing: the candidate is evaluated again.
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    return whole.splitlines()


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RunMismatch(
            f"{path}:{number}: is no JSON ({error}). The journal was changed; start a new run."
        ) from error
    if not isinstance(row, dict):
        raise RunMismatch(f"{path}:{number}: is no JSON object. The journal was changed; start a new run.")
    return row


def _row(entry: Entry) -> Mapping[str, object]:
    row: dict[str, object] = {
        "kind": entry.kind,
        "index": entry.index,
        "generation": entry.generation,
        "genome": entry.genome.tolist(),
        "recipe_id": entry.recipe_id,
    }
    outcome = entry.outcome
    if isinstance(outcome, Failure):
        return {**row, "failure": {"kind": outcome.kind, "reason": outcome.reason}, "seconds": {}}
    scores = {
        name: {
            "score": score.score,
            "ungated": score.ungated,
            "japanese": score.japanese,
            "n": score.n,
            "per_sample": [round(value, 6) for value in score.per_sample],
        }
        for name, score in outcome.scores.items()
    }
    seconds = {stage: round(value, 4) for stage, value in outcome.seconds.items()}
    return {**row, "fitness": outcome.fitness, "tokens": outcome.tokens, "scores": scores, "seconds": seconds}


def _entry(row: Mapping[str, Any]) -> Entry:
    outcome: Outcome
    if "failure" in row:
        outcome = Failure(kind=row["failure"]["kind"], reason=row["failure"]["reason"])
    else:
        scores = {
            name: TaskScore(
                score=score["score"],
                ungated=score["ungated"],
                japanese=score["japanese"],
                n=score["n"],
                per_sample=tuple(score["per_sample"]),
            )
            for name, score in row["scores"].items()
        }
        outcome = Evaluation(fitness=row["fitness"], tokens=row["tokens"], scores=scores, seconds=row["seconds"])
    return Entry(
        kind=row["kind"],
        index=row["index"],
        generation=row["generation"],
        genome=np.array(row["genome"], dtype=np.float64),
        recipe_id=row["recipe_id"],
        outcome=outcome,
    )
