"""The folder of a run: the names of its files, its lock, and whether it belongs to a config."""

import fcntl
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from evovlm.errors import OutputExists, RunError, RunMismatch
from evovlm.files import explained, leftovers, make_folder, open_lock

CONFIG_FILE = "config.yaml"
JOURNAL_FILE = "journal.jsonl"
BEST_FILE = "best.yaml"
MEAN_FILE = "mean.yaml"
RESULT_FILE = "result.json"
PAGE_FILE = "report.html"
LOCK_FILE = ".lock"

_ABSENT = "(absent)"
_GLANCE_S = 0.1


def winner_file(winner: str) -> str:
    """Return the name of the file with a run's winner."""
    return MEAN_FILE if winner == "mean" else BEST_FILE


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise OutputExists or RunMismatch unless a run may start there (or, with `resume`, continue)."""
    with explained(folder):
        if not folder.exists():
            return
    if not folder.is_dir():
        raise OutputExists(f"{folder} is a file, not a folder. Name a folder.")
    if (folder / JOURNAL_FILE).exists():
        if not resume:
            raise OutputExists(
                f"{folder} already holds a run.\n    Add --resume to continue it, or name another folder."
            )
    elif not holds_nothing(folder, but={CONFIG_FILE, JOURNAL_FILE}):
        if resume:
            raise RunMismatch(f"{folder} holds no {JOURNAL_FILE} to continue. Name the folder of a run.")
        raise OutputExists(f"{folder} already exists and is not empty. Name another folder.")


def holds_nothing(folder: Path, *, but: Collection[str]) -> bool:
    """Whether the folder contains only a lock, the files `but`, and unfinished ones of these."""
    known = {LOCK_FILE, *but, *(path.name for path, name in leftovers(folder) if name in but)}
    # As versions before 0.2 named them.
    known |= {f"{name}.partial" for name in but}
    return all(child.name in known for child in folder.iterdir())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, keep other processes from working in it, and remove what killed ones left half-written.

    A new folder in which nothing was written is removed when this raises.
    Raises RunError when another process works there, OutputError when the folder cannot be written.
    """
    is_new = not folder.exists()
    make_folder(folder)
    with explained(folder):
        lock = open_lock(folder / LOCK_FILE)
    try:
        with explained(folder):
            _take(lock, folder)
            for path, name in leftovers(folder):
                # A report is written without the lock.
                if name != PAGE_FILE and path.is_file():
                    path.unlink()
        yield
    except BaseException:
        if is_new and holds_nothing(folder, but=()):
            # What was refused leaves nothing behind.
            with suppress(OSError):
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
        raise
    finally:
        os.close(lock)


def is_locked(folder: Path) -> bool:
    """Return whether a process is working in a run's folder. Raises OSError for a lock file that cannot be opened."""
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _take(lock: int, folder: Path) -> None:
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `is_locked` of a process that watches holds it for a moment.
            time.sleep(_GLANCE_S)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"{folder}: another process is working in it.\n    Wait for it or stop it; `evovlm show` works meanwhile."
        ) from error


def check_config(
    folder: Path,
    *,
    recorded: Mapping[str, object],
    given: Mapping[str, object],
    raised: Collection[str],
    rule: str = "A budget may only be raised.",
) -> None:
    """Raise RunMismatch, naming every changed key with both values, unless the two configs are the same.

    The budgets that are only `raised`, given by their keys ("budget", "stages.path.budget"), may differ. If nothing but
    budgets differs, the error states the `rule` for them.
    """
    changes = changed_keys(recorded, given)
    if not all(change.startswith(tuple(f"{place}." for place in raised)) for change in changes):
        listed = "\n    ".join(changes)
        advice = f"{rule} " if all("budget." in change.partition(":")[0] for change in changes) else ""
        raise RunMismatch(
            f"{folder} was started with another config (then -> now):\n    {listed}\n"
            f"    {advice}Undo the change to continue the run, or start a new one in another folder."
        )


def changed_keys(before: object, now: object, *, place: str = "") -> tuple[str, ...]:
    """Return "key: old -> new" for every difference between two configs as plain values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: list[str] = []
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{place}.{key}" if place else str(key)
            found += changed_keys(before.get(key, _ABSENT), now.get(key, _ABSENT), place=inner)
        return tuple(found)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return tuple(
            change
            for index, (old, new) in enumerate(zip(before, now, strict=True))
            for change in changed_keys(old, new, place=f"{place}[{index}]")
        )
    return () if before == now else (f"{place}: {_shown(before)} -> {_shown(now)}",)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
