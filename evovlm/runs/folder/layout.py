"""A run's folder: the names of its files, who may write in it, and whether it belongs to a config."""

import fcntl
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from evovlm.errors import OutputExists, RunError, RunMismatch
from evovlm.runs.atomic import PARTIAL

CONFIG_FILE = "config.yaml"
JOURNAL_FILE = "journal.jsonl"
BEST_FILE = "best.yaml"
MEAN_FILE = "mean.yaml"
RESULT_FILE = "result.json"
LOCK_FILE = ".lock"

# What a run that stopped before its first candidate leaves: nothing that would be lost.
_BEFORE_THE_JOURNAL = frozenset({LOCK_FILE, CONFIG_FILE, CONFIG_FILE + PARTIAL, JOURNAL_FILE + PARTIAL})
_ABSENT = "(absent)"


def winner_file(winner: str) -> str:
    """Return the name of the file that a run's winner is written to."""
    return MEAN_FILE if winner == "mean" else BEST_FILE


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise OutputExists or RunMismatch unless a run may start there (or, with `resume`, go on)."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputExists(f"{folder} is a file. Name a folder.")
    if (folder / JOURNAL_FILE).exists():
        if not resume:
            raise OutputExists(
                f"{folder} holds a run already.\n    Add --resume to go on with it, or name another folder."
            )
    elif any(child.name not in _BEFORE_THE_JOURNAL for child in folder.iterdir()):
        if resume:
            raise RunMismatch(f"{folder} holds no {JOURNAL_FILE} to go on with. Name the folder of a run.")
        raise OutputExists(f"{folder} exists already and is not empty. Name another folder.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes from working in it. Raises RunError when one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{folder}: another process is at work in it.\n"
                "    Wait for it or stop it; `evovlm show` may look on at a search meanwhile."
            ) from error
        yield


def check_config(
    folder: Path,
    *,
    recorded: Mapping[str, object],
    given: Mapping[str, object],
    raised: Collection[str],
    rule: str = "A budget may only be raised.",
) -> None:
    """Raise RunMismatch, naming every changed key with both values, unless the two configs are the same.

    They may differ in the budgets that are only `raised`, given by their places ("budget", "stages.path.budget"); the
    error says the `rule` for these where nothing else differs.
    """
    changes = changed_keys(recorded, given)
    if not all(change.startswith(tuple(f"{place}." for place in raised)) for change in changes):
        listed = "\n    ".join(changes)
        advice = f"{rule} " if all("budget." in change.partition(":")[0] for change in changes) else ""
        raise RunMismatch(
            f"{folder} was started with another config (then -> now):\n    {listed}\n"
            f"    {advice}Undo the change to go on with the run, or start a new one in another folder."
        )


def changed_keys(before: object, now: object, *, place: str = "") -> tuple[str, ...]:
    """Return "key: old -> new" for everything in which two configs, as plain values, differ."""
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
