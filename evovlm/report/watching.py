"""Follows a run in progress: its page is rewritten whenever there is a new candidate."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from evovlm.errors import RunMismatch
from evovlm.files import write_file
from evovlm.report.content import RunContent
from evovlm.report.page import run_page
from evovlm.report.reading import read_run
from evovlm.runs.run import Run, journal_files


def watch_run(
    folder: Path, *, page: Path, language: str, every_s: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[RunContent | None]:
    """Rewrite `page` whenever the run has made progress, and yield its content; None before the first candidate.

    Ends with the run; the last page no longer reloads itself. Raises RunMismatch for a folder that does not exist,
    and what `read_run` raises for a journal that was changed.
    """
    if not folder.is_dir():
        raise RunMismatch(f"{folder}: this folder does not exist. Name the folder that `evovlm evolve --out` writes.")
    seen: tuple[int, ...] | None = None
    while True:
        sizes = _sizes(folder)
        if sizes != seen:
            seen = sizes
            content = _content(folder)
            if content is not None:
                reload_s = None if content.finished else every_s
                write_file(page, run_page(content, language=language, reload_s=reload_s))
            yield content
            if content is not None and content.finished:
                return
        sleep(every_s)


def _content(folder: Path) -> RunContent | None:
    begun = journal_files(folder) and Run.open(folder).journal.candidates
    return read_run(folder) if begun else None


def _sizes(folder: Path) -> tuple[int, ...]:
    return tuple(file.stat().st_size for file in journal_files(folder).values())
