"""A run that goes on, looked at again and again: its page rewritten whenever a candidate has come."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from evovlm.errors import RunMismatch
from evovlm.files import write_file
from evovlm.recipes.kinds import PS
from evovlm.report.content import RunContent
from evovlm.report.page import run_page
from evovlm.report.reading import read_run
from evovlm.runs.config.hybrid import PATH
from evovlm.runs.folder.layout import JOURNAL_FILE


def watch_run(
    folder: Path, *, page: Path, language: str, every_s: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[RunContent | None]:
    """Rewrite `page` whenever the run has gone on, and yield what it shows; None while there is no candidate yet.

    Ends with the run; the last page no longer loads itself again. Raises RunMismatch for a folder that does not exist,
    and what `read_run` raises for a journal that was changed.
    """
    if not folder.is_dir():
        raise RunMismatch(f"{folder}: there is no such folder. Name the folder that `evovlm evolve --out` writes.")
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
    if not any(_has_candidates(folder / name / JOURNAL_FILE) for name in ("", PS, PATH)):
        return None
    return read_run(folder)


def _has_candidates(journal: Path) -> bool:
    """Whether a journal has a whole line with a candidate."""
    return journal.is_file() and b'\n{"kind": "candidate"' in journal.read_bytes().rpartition(b"\n")[0]


def _sizes(folder: Path) -> tuple[int, ...]:
    files = (folder / name / JOURNAL_FILE for name in ("", PS, PATH))
    return tuple(file.stat().st_size if file.is_file() else 0 for file in files)
