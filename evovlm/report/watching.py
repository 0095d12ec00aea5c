"""Follows a run in progress: its page is rewritten whenever there is a new candidate."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import RunError, RunMismatch
from evovlm.files import write_file
from evovlm.report.content import RunContent
from evovlm.report.page import run_page
from evovlm.report.reading import read_run
from evovlm.runs.folder.layout import CONFIG_FILE, JOURNAL_FILE, is_locked
from evovlm.runs.run import Run, journal_files

_NOTHING_YET = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>…</title><p>…</p>'


@dataclass(frozen=True, slots=True)
class ServedFile:
    """The page of a run in progress, for the loopback server: what its file holds now. It takes nothing."""

    file: Path

    def html(self) -> str:
        """Return the page; before the first candidate, one that reloads itself."""
        try:
            return self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return _NOTHING_YET

    def take(self, form: Mapping[str, str]) -> None:
        """Ignore what was sent."""


def watch_run(
    folder: Path, *, page: Path, language: str, every_s: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[RunContent | None]:
    """Rewrite `page` whenever the run has made progress, and yield its content; None before the first candidate.

    Ends with the run; the last page no longer reloads itself. Raises RunMismatch for a folder that does not exist or is
    not a run's, RunError once no process works in the folder of an unfinished run, and what `read_run` raises for a
    journal that was changed.
    """
    if not folder.is_dir():
        raise RunMismatch(
            f"{folder}: this folder does not exist, so no search has begun there.\n"
            f"    Start one first (evovlm evolve CONFIG --out {folder}), or name the folder of a run."
        )
    seen: tuple[int, ...] | None = None
    while True:
        # Asked first: a process that ends afterwards has written everything by the time the files are read.
        in_progress = _in_progress(folder)
        sizes = _sizes(folder)
        if sizes != seen or not in_progress:
            seen = sizes
            content = _content(folder)
            if content is not None:
                reload_s = every_s if in_progress and not content.finished else None
                write_file(page, run_page(content, language=language, reload_s=reload_s))
            yield content
            if content is not None and content.finished:
                return
            if not in_progress:
                raise _stopped(folder, content)
        sleep(every_s)


def _in_progress(folder: Path) -> bool:
    try:
        return is_locked(folder)
    except OSError as error:
        raise RunMismatch(f"{folder}: its lock file cannot be opened ({error.strerror}). Remove it.") from error


def _stopped(folder: Path, content: RunContent | None) -> RunError:
    if content is None and not journal_files(folder):
        return RunMismatch(
            f"{folder} holds no {JOURNAL_FILE}, and no search works in it.\n"
            "    Name the folder that `evovlm evolve --out` writes."
        )
    n_candidates = 0 if content is None else len(content.last.course.candidates)
    return RunError(
        f"{folder}: the run has stopped after {n_candidates} candidates, before its end, and no process works in it.\n"
        f"    `evovlm evolve {folder / CONFIG_FILE} --out {folder} --resume` continues it."
    )


def _content(folder: Path) -> RunContent | None:
    begun = journal_files(folder) and Run.open(folder).journal.candidates
    return read_run(folder) if begun else None


def _sizes(folder: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_size for file in journal_files(folder).values())
