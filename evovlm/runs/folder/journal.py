"""The journal of a run: one line a candidate, appended and flushed to disk before the search goes on.

    {"kind": "header", "format": 1, "config_hash": "...", "config": {...}, "blocks": {"math": 32, "ja": 32}}
    {"kind": "candidate", "index": 0, "generation": 0, "genome": [...], "recipe_id": "...", "status": "evaluated",
     "fitness": 0.42, "tokens": 5081, "scores": {"word_problems_ja": {...}}, "seconds": {"merge": 0.02, ...}}

`seconds` is the only thing in it that two runs of one config do not share, and stands last in its line; `wall` in it is
the time since the line before. A line {"kind": "retry", "generation": 3} takes back the candidates of a generation that
all failed. A score on other than all of a task's samples has their "rows". A line of kind "part" is what a candidate
scored on some of the samples that it is racing on, noted so that it is not worked out again: its line as a candidate
holds all of them, and as its "fitness" what it is estimated to score on those that its generation's longest racing
candidates saw. A line of kind "rescored" is what a candidate among the best scored again, on all samples. A search with
validation samples has a line of kind "snapshot" before each generation and at the end: the distribution's mean there.
Lines of kind "parent", right below the header, are what sources alone score, where a constraint is on that. A line of
kind "stop" says which part of the budget ended the search; the last line is one of kind "mean". Where the search then
goes on with a larger budget, a line of kind "budget" holds it, and the stop and the mean above count no more. The
header says how many "blocks" each source has.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evovlm.errors import RunMismatch
from evovlm.files import write_file
from evovlm.json_lines import append_row, json_line, repaired_lines, whole_lines
from evovlm.runs.folder.entries import Entry, Parent, Stop, entry_of, entry_row, parent_of, parent_row, stop_row

FORMAT = 1
OF_A_CANDIDATE = ("part", "rescored")
"""Kinds of lines whose index says which candidate they are of."""


@dataclass(slots=True, kw_only=True, eq=False)
class Journal:
    """A run's journal; `entries` are those on disk when it was opened and those appended since.

    `config` is what the run was started with, with the `budget` that it was last given; `blocks` (how many each source
    has) are the header's. `parents` are by source.

    One process at a time may append to it; whoever does holds the run folder's lock.
    """

    path: Path
    config: Mapping[str, object]
    entries: list[Entry]
    blocks: Mapping[str, int]
    parents: dict[str, Parent] = field(default_factory=dict)
    stop: Stop | None = None

    @classmethod
    def create(cls, path: Path, *, config: Mapping[str, object], blocks: Mapping[str, int]) -> "Journal":
        """Start a journal with its header; the file appears whole or not at all."""
        header = {"kind": "header", "format": FORMAT, "config_hash": config_hash(config), "config": config}
        write_file(path, json_line({**header, "blocks": blocks}))
        return cls(path=path, config=config, entries=[], blocks=blocks)

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open a journal to go on with: a torn last line is cut off.

        Raises RunMismatch when the file is no journal of this format or was changed.
        """
        # Read first: what is not a journal stays as it is.
        journal = read_journal(path)
        repaired_lines(path)
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
    def snapshots(self) -> tuple[Entry, ...]:
        """The means on the validation samples, in order."""
        return tuple(entry for entry in self.entries if entry.kind == "snapshot")

    @property
    def mean(self) -> Entry | None:
        """The distribution's mean, the last entry of a finished search."""
        return next((entry for entry in self.entries if entry.kind == "mean"), None)

    @property
    def tokens(self) -> int:
        """How many tokens have been generated for what stands in it."""
        entries = [entry for entry in self.entries if entry.kind != "part"]
        tokens = sum(entry.evaluation.tokens for entry in entries if entry.evaluation)
        return tokens + sum(parent.tokens for parent in self.parents.values())

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk."""
        append_row(self.path, entry_row(entry))
        self.entries.append(entry)

    def append_parent(self, parent: Parent) -> None:
        """Note what a source alone scores."""
        append_row(self.path, parent_row(parent))
        self.parents[parent.source] = parent

    def append_stop(self, stop: Stop) -> None:
        """Note why the search ends."""
        append_row(self.path, stop_row(stop))
        self.stop = stop

    def raise_budget(self, budget: Mapping[str, object]) -> None:
        """Let a search go on with another budget."""
        append_row(self.path, {"kind": "budget", "budget": dict(budget), "seconds": {}})
        self._take_budget(budget)

    def retry(self, generation: int) -> None:
        """Take back the candidates of the last generation, so that they are evaluated again."""
        append_row(self.path, {"kind": "retry", "generation": generation})
        self.entries = _without(self.entries, generation)

    def take(self, row: Mapping[str, Any], *, line: int) -> None:
        """Take a line of the file, the next after those taken. Raises RunMismatch for one that cannot follow them.

        Raises KeyError, TypeError, ValueError or AttributeError for what is no line of a journal.
        """
        match row["kind"]:
            case "retry":
                self.entries = _without(self.entries, row["generation"])
            case "budget":
                self._take_budget(row["budget"])
            case "parent":
                self.parents[row["source"]] = parent_of(row)
            case "stop":
                self.stop = Stop(reason=row["reason"], generation=row["generation"])
            case _:
                entry = entry_of(row, line=line)
                self._check_place(entry, line=line)
                self.entries.append(entry)

    def _check_place(self, entry: Entry, *, line: int) -> None:
        """Raise RunMismatch where lines are missing, too many, or in another order."""
        last = next((each for each in reversed(self.entries) if each.kind == "candidate"), None)
        expected = 0 if last is None else last.index + 1
        if entry.kind not in OF_A_CANDIDATE and entry.index != expected:
            raise changed(
                self.path,
                line,
                f"{entry.kind} {entry.index} stands where {expected} should: lines are missing, too many, or in "
                "another order",
            )
        if entry.kind != "candidate":
            return
        before = 0 if last is None else last.generation
        if entry.generation not in (before, before + (last is not None)):
            raise changed(
                self.path, line, f"candidate {entry.index} is of generation {entry.generation}, and follows {before}"
            )
        if self.entries and self.entries[-1].kind == "mean":
            raise changed(self.path, line, f"candidate {entry.index} stands below the end of the search")

    def _take_budget(self, budget: Mapping[str, object]) -> None:
        self.config = {**self.config, "budget": dict(budget)}
        self.entries = [entry for entry in self.entries if entry.kind not in ("rescored", "mean")]
        self.stop = None


def read_journal(path: Path) -> Journal:
    """Return a journal that may still be growing, to be read only; a torn last line is left out.

    Raises RunMismatch as `Journal.open` does.
    """
    return _read(path, whole_lines(path.read_bytes()))


def best_distinct(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """Return the `count` entries of the highest fitness that are of different recipes, the earliest of equals."""
    evaluated = [(-entry.evaluation.fitness, entry.index, entry) for entry in entries if entry.evaluation]
    found: dict[str, Entry] = {}
    for _, _, entry in sorted(evaluated, key=lambda row: row[:2]):
        found.setdefault(entry.recipe_id, entry)
    return tuple(found.values())[:count]


def config_hash(config: Mapping[str, object]) -> str:
    """Return 16 hexadecimal digits that stand for everything the config says."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(path: Path, lines: Sequence[bytes]) -> Journal:
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    if not rows or rows[0].get("kind") != "header" or rows[0].get("format") != FORMAT:
        raise RunMismatch(f"{path}: does not begin as a journal of format {FORMAT}. Start again in a new folder.")
    config = rows[0].get("config")
    if not isinstance(config, dict) or rows[0].get("config_hash") != config_hash(config):
        raise changed(path, 1, "the config in its header is not the one that the run was started with")
    blocks = rows[0].get("blocks")
    if not isinstance(blocks, dict) or not blocks:
        raise RunMismatch(
            f"{path}: does not say how many blocks the models have, as an earlier version's.\n"
            "    Go on with that version, or start again in a new folder."
        )
    journal = Journal(path=path, config=config, entries=[], blocks=blocks)
    for number, row in enumerate(rows[1:], start=2):
        try:
            journal.take(row, line=number)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise changed(path, number, f"is no line of a journal ({type(error).__name__}: {error})") from error
    return journal


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise changed(path, number, f"is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise changed(path, number, "is no JSON object")
    return row


def changed(path: Path, line: int, reason: str) -> RunMismatch:
    """Return the error for a line that is not as it was written."""
    return RunMismatch(
        f"{path}:{line}: {reason}.\n    The journal was changed after it was written: put back the file as it was, or "
        "start a new run in another folder."
    )


def _without(entries: list[Entry], generation: int) -> list[Entry]:
    return [entry for entry in entries if entry.generation != generation]
