"""The journal of a run: one line per candidate, appended and flushed to disk before the search continues.

    {"kind": "header", "format": 1, "config_hash": "...", "config": {...}, "blocks": {"math": 32, "ja": 32}}
    {"kind": "candidate", "index": 0, "generation": 0, "genome": [...], "recipe_id": "...", "status": "evaluated",
     "fitness": 0.42, "tokens": 5081, "scores": {"word_problems_ja": {...}}, "seconds": {"merge": 0.02, ...}}

`seconds`, last in its line, is all that may differ between two runs of one config; its `wall` is the time since the
line before. A score on some of a task's samples has their "rows". The header has the number of "blocks" of each source.
A header with an "engine" (its "name", "version" and, if it is not 1, "tensor_parallel") says that another engine than
`builtin` answered. The other kinds of lines:

* retry: takes back the candidates of a generation in which all failed.
* part: what a racing candidate scored on some samples, recorded so that they are not scored again. Its line as a
  candidate has all these samples, and its "fitness" is the estimate for the samples that the longest racing candidates
  of its generation saw.
* rescored: what one of the best candidates scored again, on all samples.
* snapshot: the distribution's mean on the validation samples, if there are any, before each generation and at the end.
* parent: below the header, what a source alone scores, if a constraint refers to it.
* stop: which bound of the budget ended the search.
* mean: the last line of a finished search.
* budget: a larger budget with which a finished search continues; the stop and the mean above it no longer count.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evovlm.errors import RunMismatch
from evovlm.evaluation.engines.table import BUILTIN_ENGINE, MOST_PARTS, EngineId
from evovlm.files import read_foreign, write_file
from evovlm.foreign_json import LIMIT_BYTES, JsonObject, parse_json
from evovlm.json_lines import append_row, json_line, repaired_lines, whole_lines
from evovlm.recipes.model_config import MOST_BLOCKS
from evovlm.runs.folder.entries import (
    Entry,
    Parent,
    Stop,
    entry_of,
    entry_row,
    parent_of,
    parent_row,
    stop_of,
    stop_row,
)

FORMAT = 1
OF_A_CANDIDATE = ("part", "rescored")
"""Kinds of lines whose index says which candidate they are of."""


@dataclass(slots=True, kw_only=True, eq=False)
class Journal:
    """A run's journal; `entries` are those on disk when it was opened and those appended since.

    `config` is the config that the run was started with, with its latest `budget`; `blocks` is the number of blocks of
    each source; `parents` are by source; `engine` is what answers.

    One process at a time may append to it, and holds the run folder's lock.
    """

    path: Path
    config: Mapping[str, object]
    entries: list[Entry]
    blocks: Mapping[str, int]
    parents: dict[str, Parent] = field(default_factory=dict)
    stop: Stop | None = None
    engine: EngineId = BUILTIN_ENGINE

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        config: Mapping[str, object],
        blocks: Mapping[str, int],
        engine: EngineId = BUILTIN_ENGINE,
    ) -> "Journal":
        """Start a journal with its header; the file appears whole or not at all."""
        header = {"kind": "header", "format": FORMAT, "config_hash": config_hash(config), "config": config}
        # Journals from before there were other engines do not name `builtin` either.
        other = {} if engine == BUILTIN_ENGINE else {"engine": _engine_values(engine)}
        write_file(path, json_line({**header, "blocks": blocks, **other}))
        return cls(path=path, config=config, entries=[], blocks=blocks, engine=engine)

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open a journal to continue it; a torn last line is cut off.

        Raises RunMismatch when the file is not a journal of this format, or was changed.
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
        """What racing candidates scored on some samples, in the order of recording."""
        return tuple(entry for entry in self.entries if entry.kind == "part")

    @property
    def rescored(self) -> tuple[Entry, ...]:
        """The best candidates, scored again on all samples."""
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
        """The number of tokens that were generated for its entries."""
        entries = [entry for entry in self.entries if entry.kind != "part"]
        tokens = sum(entry.evaluation.tokens for entry in entries if entry.evaluation)
        return tokens + sum(parent.tokens for parent in self.parents.values())

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk."""
        append_row(self.path, entry_row(entry))
        self.entries.append(entry)

    def append_parent(self, parent: Parent) -> None:
        """Record what a source alone scores."""
        append_row(self.path, parent_row(parent))
        self.parents[parent.source] = parent

    def append_stop(self, stop: Stop) -> None:
        """Record why the search ends."""
        append_row(self.path, stop_row(stop))
        self.stop = stop

    def raise_budget(self, budget: Mapping[str, object]) -> None:
        """Let a search continue with another budget."""
        append_row(self.path, {"kind": "budget", "budget": dict(budget), "seconds": {}})
        self._take_budget(budget)

    def retry(self, generation: int) -> None:
        """Take back the candidates of the last generation, so that they are evaluated again."""
        append_row(self.path, {"kind": "retry", "generation": generation})
        self.entries = _without(self.entries, generation)

    def take(self, row: JsonObject, *, line: int) -> None:
        """Take the next line of the file. Raises RunMismatch for a line that cannot follow those before it.

        Raises ValueError, with the field, for what is not a line of a journal.
        """
        match row.text("kind"):
            case "retry":
                generation = row.count("generation")
                self._check_failed(generation, line=line)
                self.entries = _without(self.entries, generation)
            case "budget":
                self._take_budget(row.inside("budget").values)
            case "parent":
                parent = parent_of(row)
                self.parents[parent.source] = parent
            case "stop":
                self.stop = stop_of(row)
            case _:
                entry = entry_of(row, line=line)
                self._check_form(entry, line=line)
                self._check_place(entry, line=line)
                self.entries.append(entry)

    def _check_failed(self, generation: int, *, line: int) -> None:
        """Raise RunMismatch unless this is the last generation, and everything in it failed."""
        candidates = self.candidates
        last = [entry for entry in candidates if entry.generation == candidates[-1].generation]
        if not last or last[0].generation != generation or self.mean or any(entry.evaluation for entry in last):
            raise changed(
                self.path,
                line,
                f"takes back generation {generation}, which is not a last generation in which all candidates failed",
            )

    def _check_form(self, entry: Entry, *, line: int) -> None:
        """Raise RunMismatch unless the entry has as many numbers as those before it, and scores of the same tasks."""
        first = next(iter(self.entries), entry)
        if len(entry.genome) != len(first.genome):
            found = f"its genome has {len(entry.genome)} numbers, and the first one has {len(first.genome)}"
            raise changed(self.path, line, f"{entry.kind} {entry.index}: {found}")
        scored = next((each.evaluation for each in self.entries if each.evaluation), entry.evaluation)
        if scored is None or entry.evaluation is None:
            return
        for what, have, need in (
            ("scores of", list(entry.evaluation.scores), list(scored.scores)),
            ("goals:", len(entry.evaluation.goals), len(scored.goals)),
        ):
            if have != need:
                raise changed(self.path, line, f"{entry.kind} {entry.index}: has {what} {have}, and the first {need}")

    def _check_place(self, entry: Entry, *, line: int) -> None:
        """Raise RunMismatch where lines are missing, too many, or in another order."""
        if self.mean is not None:
            raise changed(self.path, line, f"{entry.kind} {entry.index} comes after the end of the search")
        last = next((each for each in reversed(self.entries) if each.kind == "candidate"), None)
        expected = 0 if last is None else last.index + 1
        if entry.kind == "rescored" and not any(
            each.index == entry.index and each.evaluation for each in self.candidates
        ):
            raise changed(self.path, line, f"rescored {entry.index}: no candidate of this index was evaluated")
        if entry.kind not in OF_A_CANDIDATE and entry.index != expected:
            raise changed(
                self.path,
                line,
                f"{entry.kind} {entry.index} is where {expected} should be: lines are missing, too many, or in another "
                "order",
            )
        if entry.kind != "candidate":
            return
        before = 0 if last is None else last.generation
        if entry.generation not in (before, before + (last is not None)):
            raise changed(
                self.path, line, f"candidate {entry.index} is of generation {entry.generation}, but follows {before}"
            )

    def _take_budget(self, budget: Mapping[str, object]) -> None:
        self.config = {**self.config, "budget": dict(budget)}
        self.entries = [entry for entry in self.entries if entry.kind not in ("rescored", "mean")]
        self.stop = None


def read_journal(path: Path) -> Journal:
    """Read a journal, which may still be growing; a torn last line is left out.

    Raises RunMismatch as `Journal.open` does.
    """
    try:
        content = read_foreign(path, limit_bytes=LIMIT_BYTES)
    except OSError as error:
        raise RunMismatch(f"{path}: cannot be read ({error.strerror or error}).") from error
    return _read(path, whole_lines(content))


def best_distinct(entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """Return the `count` fittest entries of different recipes; of equals, the earliest."""
    evaluated = [(-entry.evaluation.fitness, entry.index, entry) for entry in entries if entry.evaluation]
    found: dict[str, Entry] = {}
    for _, _, entry in sorted(evaluated, key=lambda row: row[:2]):
        found.setdefault(entry.recipe_id, entry)
    return tuple(found.values())[:count]


def config_hash(config: Mapping[str, object]) -> str:
    """Return the config's hash, 16 hexadecimal digits."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(path: Path, lines: Sequence[bytes]) -> Journal:
    rows = [_parsed(path, number, line) for number, line in enumerate(lines, start=1)]
    header = rows[0].values if rows else {}
    if header.get("kind") != "header" or header.get("format") != FORMAT or header["format"] is True:
        raise RunMismatch(f"{path}: does not begin like a journal of format {FORMAT}. Start again in a new folder.")
    config = header.get("config")
    if not isinstance(config, dict) or header.get("config_hash") != config_hash(config):
        raise changed(path, 1, "the config in its header is not the one that the run was started with")
    if not header.get("blocks"):
        raise RunMismatch(
            f"{path}: an earlier version wrote it, without the models' numbers of blocks.\n"
            "    Continue with that version, or start again in a new folder."
        )
    journal = Journal(path=path, config=config, entries=[], blocks={})
    for number, row in enumerate(rows, start=1):
        try:
            if number == 1:
                blocks = row.inside("blocks")
                journal.blocks = {name: blocks.count(name, low=1, high=MOST_BLOCKS) for name in blocks.values}
                if "engine" in row.values:
                    journal.engine = _engine_in(row.inside("engine"))
            else:
                journal.take(row, line=number)
        except ValueError as error:
            raise changed(path, number, f"is not a line of a journal ({error})") from error
    return journal


def _engine_values(engine: EngineId) -> Mapping[str, object]:
    # A model that is not divided is not said to be: journals from before it could be do not say so either.
    return {key: value for key, value in asdict(engine).items() if (key, value) != ("tensor_parallel", 1)}


def _engine_in(values: JsonObject) -> EngineId:
    parts = values.count("tensor_parallel", low=1, high=MOST_PARTS) if "tensor_parallel" in values.values else 1
    return EngineId(name=values.text("name"), version=values.text("version"), tensor_parallel=parts)


def _parsed(path: Path, number: int, line: bytes) -> JsonObject:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise changed(path, number, f"is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise changed(path, number, "is not a JSON object")
    return JsonObject(row)


def changed(path: Path, line: int, reason: str) -> RunMismatch:
    """Return the error for a line that was changed."""
    return RunMismatch(
        f"{path}:{line}: {reason}.\n    The journal was changed after it was written: put back the file as it was, or "
        "start a new run in another folder."
    )


def _without(entries: list[Entry], generation: int) -> list[Entry]:
    return [entry for entry in entries if entry.generation != generation]
