"""The journal of a run: one line a candidate, appended and flushed to disk before the search goes on.

    {"kind": "header", "format": 1, "config_hash": "...", "config": {...}}
    {"kind": "candidate", "index": 0, "generation": 0, "genome": [...], "recipe_id": "...", "status": "evaluated",
     "fitness": 0.42, "tokens": 5081, "scores": {"word_problems_ja": {...}}, "seconds": {"merge": 0.02, ...}}

`seconds` is the only thing in it that two runs of one config do not share, and stands last in its line. A line
{"kind": "retry", "generation": 3} takes back the candidates of a generation that all failed. A score on other than all
of a task's samples has their "rows". A line of kind "part" is what a candidate scored on some of the samples that it is
racing on, noted so that it is not worked out again: its line as a candidate holds all of them, and as its "fitness"
what it is estimated to score on those that its generation's longest racing candidates saw. A line of kind "rescored" is
what a candidate among the best scored again, on all samples. A search with validation samples has a line of kind
"snapshot" before each generation and at the end: the distribution's mean there; it ends with one of kind "mean". A
header of a search through layers says how many "blocks" each source has.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evovlm.errors import RunError, RunMismatch
from evovlm.recipes.candidate import Evaluation, Failure, Genome, TaskScore
from evovlm.runs.atomic import write_atomically
from evovlm.search.loop import Outcome

FORMAT = 1
_OF_A_CANDIDATE = ("part", "rescored")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """One line and its outcome: a candidate, a part of one, one "rescored", the distribution's mean before a
    `generation` ("snapshot") or at the end ("mean").

    `index` counts candidates, and says whose a part or a new score is; of another line, it is the number of candidates
    before it.
    """

    kind: str
    index: int
    generation: int
    genome: Genome
    recipe_id: str
    outcome: Outcome


@dataclass(slots=True, kw_only=True, eq=False)
class Journal:
    """A run's journal; `entries` are those on disk when it was opened and those appended since.

    `config` and `blocks` (how many each source has; empty unless paths are searched) are the header's.

    One process at a time may append to it; whoever does holds the run folder's lock.
    """

    path: Path
    config: Mapping[str, object]
    entries: list[Entry]
    blocks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, object], blocks: Mapping[str, int] | None = None) -> "Journal":
        """Start a journal with its header; the file appears whole or not at all."""
        header = {"kind": "header", "format": FORMAT, "config_hash": config_hash(config), "config": config}
        write_atomically(path, _line({**header, "blocks": blocks} if blocks else header))
        return cls(path=path, config=config, entries=[], blocks=blocks or {})

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open a journal to go on with: a torn last line is cut off.

        Raises RunMismatch when the file is no journal of this format or was changed.
        """
        content = path.read_bytes()
        whole = _whole_lines(content)
        journal = _read(path, whole)
        if len(whole) < len(content):
            # Killed while writing: the candidate is evaluated again.
            with path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        return journal

    @property
    def candidates(self) -> tuple[Entry, ...]:
        """The candidates, in the order of their index, which counts from 0."""
        return tuple(entry for entry in self.entries if entry.kind == "candidate")

    @property
    def parts(self) -> tuple[Entry, ...]:
        """What racing candidates scored on some samples, in the order in which it was noted."""
        return tuple(entry for entry in self.entries if entry.kind == "part")

    @property
    def rescored(self) -> tuple[Entry, ...]:
        """The best candidates as they scored again, on all samples."""
        return tuple(entry for entry in self.entries if entry.kind == "rescored")

    @property
    def tokens(self) -> int:
        """How many tokens were generated for the candidates and the means."""
        outcomes = [entry.outcome for entry in self.entries if entry.kind != "part"]
        return sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Evaluation))

    @property
    def snapshots(self) -> tuple[Entry, ...]:
        """The means on the validation samples, in order."""
        return tuple(entry for entry in self.entries if entry.kind == "snapshot")

    @property
    def mean(self) -> Entry | None:
        """The distribution's mean, the last line of a finished search."""
        return next((entry for entry in self.entries if entry.kind == "mean"), None)

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk."""
        self._append_line(_row(entry))
        self.entries.append(entry)

    def retry(self, generation: int) -> None:
        """Take back the candidates of the last generation, so that they are evaluated again."""
        self._append_line({"kind": "retry", "generation": generation})
        self.entries = _without(self.entries, generation)

    def _append_line(self, row: Mapping[str, object]) -> None:
        with self.path.open("ab") as file:
            file.write(_line(row).encode())
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path) -> Journal:
    """Return a journal that may still be growing, to be read only; a torn last line is left out.

    Raises RunMismatch as `Journal.open` does.
    """
    return _read(path, _whole_lines(path.read_bytes()))


def best_entry(entries: Sequence[Entry]) -> Entry:
    """Return the entry of the highest fitness, the earliest of equals. Raises RunError when all failed."""
    best = best_distinct(entries, 1)
    if not best:
        raise RunError("no candidate could be evaluated.")
    return best[0]


def best_distinct(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """Return the `count` entries of the highest fitness that are of different recipes, the earliest of equals."""
    evaluated = [
        (-entry.outcome.fitness, entry.index, entry) for entry in entries if isinstance(entry.outcome, Evaluation)
    ]
    found: dict[str, Entry] = {}
    for _, _, entry in sorted(evaluated, key=lambda row: row[:2]):
        found.setdefault(entry.recipe_id, entry)
    return tuple(found.values())[:count]


def config_hash(config: Mapping[str, object]) -> str:
    """Return 16 hexadecimal digits that stand for everything the config says."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _line(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _whole_lines(content: bytes) -> bytes:
    """Return the content without a torn last line: one that does not end, or (after a power cut) is no JSON."""
    whole = content[: content.rfind(b"\n") + 1]
    start = whole.rfind(b"\n", 0, -1) + 1
    try:
        json.loads(whole[start:] or b"null")
    except ValueError:
        return whole[:start]
    return whole


def _read(path: Path, content: bytes) -> Journal:
    rows = [_parsed(path, number, line) for number, line in enumerate(content.splitlines(), start=1)]
    if not rows or rows[0].get("kind") != "header" or rows[0].get("format") != FORMAT:
        raise RunMismatch(f"{path}: does not begin as a journal of format {FORMAT}. Start again in a new folder.")
    config = rows[0].get("config")
    if not isinstance(config, dict) or rows[0].get("config_hash") != config_hash(config):
        raise _changed(path, 1, "the config in its header is not the one that the run was started with")
    journal = Journal(path=path, config=config, entries=[], blocks=rows[0].get("blocks") or {})
    n_candidates = 0
    for number, row in enumerate(rows[1:], start=2):
        try:
            if row["kind"] == "retry":
                journal.entries = _without(journal.entries, row["generation"])
                n_candidates = len(journal.candidates)
                continue
            entry = _entry(row)
        except (KeyError, TypeError, ValueError) as error:
            raise _changed(path, number, f"is no candidate's line ({type(error).__name__}: {error})") from error
        if entry.kind not in _OF_A_CANDIDATE and entry.index != n_candidates:
            raise _changed(path, number, f"candidate {entry.index} stands where {n_candidates} should")
        journal.entries.append(entry)
        n_candidates += entry.kind == "candidate"
    return journal


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise _changed(path, number, f"is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise _changed(path, number, "is no JSON object")
    return row


def _changed(path: Path, number: int, reason: str) -> RunMismatch:
    return RunMismatch(f"{path}:{number}: {reason}. The journal was changed; start a new run in another folder.")


def _without(entries: list[Entry], generation: int) -> list[Entry]:
    return [entry for entry in entries if entry.generation != generation]


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
        failure = {"kind": outcome.kind, "reason": outcome.reason}
        return {**row, "status": "failed", "failure": failure, "seconds": {}}
    scores = {
        name: {
            "score": score.score,
            "ungated": score.ungated,
            "japanese": score.japanese,
            "n": score.n,
            "unscored": score.unscored,
            "per_sample": list(score.per_sample),
            **({} if score.rows is None else {"rows": list(score.rows)}),
        }
        for name, score in outcome.scores.items()
    }
    seconds = {stage: round(value, 4) for stage, value in outcome.seconds.items()}
    figures = {"fitness": outcome.fitness, **({"goals": list(outcome.goals)} if outcome.goals else {})}
    return {**row, "status": "evaluated", **figures, "tokens": outcome.tokens, "scores": scores, "seconds": seconds}


def _entry(row: Mapping[str, Any]) -> Entry:
    outcome: Outcome
    if row["status"] == "failed":
        outcome = Failure(kind=row["failure"]["kind"], reason=row["failure"]["reason"])
    else:
        scores = {
            name: TaskScore(
                score=score["score"],
                ungated=score["ungated"],
                japanese=score["japanese"],
                n=score["n"],
                unscored=score["unscored"],
                per_sample=tuple(score["per_sample"]),
                rows=tuple(score["rows"]) if "rows" in score else None,
            )
            for name, score in row["scores"].items()
        }
        outcome = Evaluation(
            fitness=row["fitness"],
            goals=tuple(row.get("goals", ())),
            tokens=row["tokens"],
            scores=scores,
            seconds=row["seconds"],
        )
    return Entry(
        kind=row["kind"],
        index=row["index"],
        generation=row["generation"],
        genome=np.array(row["genome"], dtype=np.float64),
        recipe_id=row["recipe_id"],
        outcome=outcome,
    )
