"""The folder of a scoring: settings, scores, predictions by model and task, batches of unfinished tasks."""

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evovlm.errors import EvovlmError, RunMismatch
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.batches import Batch
from evovlm.evaluation.predictions import parse_answers, prediction_lines
from evovlm.files import explained, read_foreign, write_file
from evovlm.foreign_json import LIMIT_BYTES, JsonObject, parse_json, read_json
from evovlm.json_lines import append_row, repaired_lines
from evovlm.recipes.candidate import Thinking
from evovlm.recipes.low_score import LowScore
from evovlm.runs.folder.layout import changed_keys, holds_nothing, locked
from evovlm.tasks.metrics.scoring import Scoring

RECIPE_IDENTITY = "recipe "
"""How the identity of a recipe begins, which is followed by its id."""
FORMAT = 1
_NAME_BYTES = 90
"""The length of a name within a file's name, which has two of them and at most 255 bytes."""
SUMMARY_FILE = "summary.json"
_PACKAGES = ("evovlm", "torch", "transformers", "lm_eval")


@dataclass(slots=True, kw_only=True, eq=False)
class BatchFile:
    """Batches of answers, one line of JSON each; a batch is on disk before the next one is asked."""

    path: Path
    batches: tuple[Batch, ...]

    @classmethod
    def open(cls, path: Path) -> "BatchFile":
        """Read the existing batches; a torn last line is cut off. Raises RunMismatch for a file that was changed."""
        return cls(path=path, batches=tuple(_batch(path, line) for line in repaired_lines(path)))

    def recorded(self, number: int) -> Batch | None:
        """Return the batch of that number if it was there when the file was opened."""
        return self.batches[number] if number < len(self.batches) else None

    def append(self, batch: Batch) -> None:
        """Write a batch and wait until it is on disk."""
        row = {
            "rows": list(batch.rows),
            "answers": list(batch.answers),
            "tokens": batch.tokens,
            "seconds": batch.seconds,
        }
        append_row(self.path, row)


def _batch(path: Path, line: bytes) -> Batch:
    try:
        row = JsonObject.of(parse_json(line))
        batch = Batch(
            rows=row.counts("rows"),
            answers=row.texts_or_numbers("answers"),
            tokens=row.count("tokens"),
            seconds=row.number("seconds", low=0),
        )
        if len(batch.rows) != len(batch.answers):
            raise ValueError(f"it has {len(batch.rows)} rows, but {len(batch.answers)} answers")
        return batch
    except ValueError as error:
        raise RunMismatch(f"{path}: a line is not a batch of answers ({error}). Score into a new folder.") from error


@dataclass(slots=True, kw_only=True, eq=False)
class SavedScores:
    """An open folder of a scoring; models and tasks are numbered as in the settings. Opened by `saving`."""

    folder: Path
    settings: Mapping[str, Any]
    _summary: dict[str, Any]

    def log(self, model: int, task: int) -> BatchFile:
        """Return the file of the batches of an unfinished task."""
        return BatchFile.open(self._batches_file(model, task))

    def keep(self, model: int, task: int, scored: ScoredTask) -> None:
        """Write the predictions of a finished task."""
        file = self._file(model, task)
        write_file(file, prediction_lines(scored))
        score = scored.score
        self._summary["finished"][file.name] = {
            "model": self.settings["models"][model]["model"],
            "task": scored.name,
            "metric": scored.metric,
            "measured": scored.measured,
            "gate": scored.gate,
            "n": score.n,
            "tokens": scored.tokens,
            "seconds": dict(scored.seconds),
            **({"absent": dict(scored.absent)} if scored.absent else {}),
            **({"low": scored.low.as_row()} if scored.low is not None else {}),
            **({"thinking": scored.thinking.figures()} if scored.thinking is not None else {}),
        }
        self._write()
        batches = self._batches_file(model, task)
        with explained(batches):
            batches.unlink(missing_ok=True)

    def finished(self, model: int, task: int) -> ScoredTask | None:
        """Return a finished task from its predictions. Raises RunMismatch when they were changed."""
        file = self._file(model, task)
        if file.name not in self._summary["finished"]:
            return None
        try:
            recorded = JsonObject(self._summary["finished"]).inside(file.name)
            n, seconds = recorded.count("n", low=1), recorded.inside("seconds")
            text = read_foreign(file, limit_bytes=LIMIT_BYTES).decode("utf-8")
            scored = ScoredTask(
                name=recorded.text("task"),
                metric=recorded.text("metric"),
                measured=recorded.text("measured"),
                gate=recorded.optional_text("gate"),
                answers=parse_answers(text, where=str(file)),
                absent=_absent(recorded),
                low=LowScore.of(recorded.inside("low")) if "low" in recorded.values else None,
                thinking=Thinking.of(recorded.inside("thinking")) if "thinking" in recorded.values else None,
                tokens=recorded.count("tokens"),
                seconds={stage: seconds.number(stage, low=0) for stage in seconds.values},
            )
        except (OSError, ValueError) as error:
            raise RunMismatch(f"{file}: was changed ({error}). Score into a new folder.") from error
        times = 1 + max((answer.repeat for answer in scored.answers), default=0)
        if [answer.repeat for answer in scored.answers] != list(range(times)) * n or len(scored.by_id) != n:
            raise RunMismatch(
                f"{file}: holds {len(scored.answers)} predictions of {n * times}. Score into a new folder."
            )
        return scored

    def finish(self, scores: Mapping[str, object]) -> None:
        """Write the scores of all models."""
        self._summary["scores"] = scores
        self._write()

    def _write(self) -> None:
        write_file(self.folder / SUMMARY_FILE, json.dumps(self._summary, ensure_ascii=False, indent=1) + "\n")

    def _file(self, model: int, task: int) -> Path:
        """Return the file of a task. The numbers identify it; the names are for people, and were others before."""
        known = re.compile(rf"{model + 1}-[^./]*\.{task + 1}-[^./]*\.jsonl")
        written = next(filter(known.fullmatch, self._summary["finished"]), None)
        return self.folder / (written or f"{self._name(model, task)}.jsonl")

    def _batches_file(self, model: int, task: int) -> Path:
        written = self.folder.glob(f"{model + 1}-*.{task + 1}-*.batches.jsonl")
        return next(written, self.folder / f"{self._name(model, task)}.batches.jsonl")

    def _name(self, model: int, task: int) -> str:
        models, tasks = self.settings["models"], self.settings["tasks"]
        return f"{model + 1}-{_plain(models[model]['model'])}.{task + 1}-{_plain(tasks[task]['task'])}"


def _without_places(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings without the files of recipes: a recipe is the same wherever it is, and a run may be moved."""
    models = [
        {**model, "model": None} if str(model.get("identity")).startswith(RECIPE_IDENTITY) else model
        for model in settings["models"]
    ]
    return {**settings, "models": models}


def _absent(recorded: JsonObject) -> Mapping[str, int]:
    if "absent" not in recorded.values:
        return {}
    absent = recorded.inside("absent")
    return {reason: absent.count(reason) for reason in absent.values}


@contextmanager
def saving(folder: Path, *, settings: Mapping[str, Any], anew: bool = False) -> Iterator[SavedScores]:
    """Open the folder of a scoring, new or to be continued, and keep other processes from working in it.

    `anew` forgets what is known from a scoring in the folder. Raises RunMismatch, naming what
    differs, for a folder of other settings, or of something else; RunError when another process is working in it.
    """
    existing = _read_summary(folder)
    found = None if anew else existing
    if found is not None and (changes := changed_keys(_without_places(found["settings"]), _without_places(settings))):
        listed = "\n    ".join(changes)
        raise RunMismatch(
            f"{folder} was scored with other settings (then -> now):\n    {listed}\n"
            "    Undo the change to continue, remove this folder to score again, or save into a new one."
        )
    with locked(folder):
        summary = found or {"format": FORMAT, "versions": _versions(), "settings": settings, "finished": {}}
        saved = SavedScores(folder=folder, settings=summary["settings"], _summary={**summary, "scores": None})
        saved._write()
        try:
            yield saved
        except EvovlmError:
            if existing is None and holds_nothing(folder, but={SUMMARY_FILE}):
                # The lock then removes the folder, if it is new.
                with explained(folder):
                    (folder / SUMMARY_FILE).unlink(missing_ok=True)
            raise


def read_saved(folder: Path) -> SavedScores | None:
    """Open the folder of a scoring for reading; None if it does not exist. Raises RunMismatch as `saving` does."""
    found = _read_summary(folder)
    return None if found is None else SavedScores(folder=folder, settings=found["settings"], _summary=found)


def saved_scorings(file: Path) -> Mapping[str, Scoring]:
    """Return how the task was scored whose answers `score --save` wrote to `file`; empty for any other file."""
    if not (file.parent / SUMMARY_FILE).is_file():
        return {}
    try:
        finished = JsonObject(_read_summary(file.parent) or {}).inside("finished")
        if file.name not in finished.values:
            return {}
        found = finished.inside(file.name)
        return {found.text("task"): Scoring.parse(found.text("measured"))}
    except (RunMismatch, ValueError):
        # It belongs to another program, or was changed: the user may name a metric.
        return {}


def _read_summary(folder: Path) -> dict[str, Any] | None:
    if not os.path.lexists(folder):
        return None
    path = folder / SUMMARY_FILE
    if not path.is_file():
        if folder.is_dir() and holds_nothing(folder, but={SUMMARY_FILE}):
            return None
        raise RunMismatch(f"{folder} holds no {SUMMARY_FILE} to continue. Name the folder of a scoring.")
    try:
        summary = JsonObject.of(read_json(path))
        summary.count("format", low=FORMAT, high=FORMAT)
        summary.inside("finished")
        settings = summary.inside("settings")
        for key, name in (("models", "model"), ("tasks", "task")):
            for each in settings.objects(key):
                each.text(name)
    except (OSError, ValueError) as error:
        raise RunMismatch(f"{path}: is not a summary of format {FORMAT} ({error}). Score into a new folder.") from error
    return dict(summary.values)


def _plain(text: str) -> str:
    """Return the end of a name for a file: letters and digits of any script, `_` and `-`, at most 40 and 90 bytes."""
    kept = (
        each if each in "_-" or unicodedata.category(each)[0] in "LMN" else " "
        for each in unicodedata.normalize("NFC", text)
    )
    end = "-".join("".join(kept).split())[-40:]
    while len(end.encode()) > _NAME_BYTES:
        end = end[1:]
    return end.strip("-") or "x"


def _versions() -> Mapping[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
