"""A folder that appears all at once or not at all, and what keeps it from being written.

The work is done in a hidden sibling, `.NAME.partial`, which this process holds a lock on. A killed process leaves it
behind, unlocked; the next one that writes to NAME takes it over.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evovlm.errors import OutputError, OutputExists

_LOCK_FILE = ".evovlm-lock"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_ATTEMPTS = 100


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden sibling of `out`, which becomes `out` when the body ends well and is removed when it does not.

    With `overwrite` a model folder that is there is replaced, once the new one is complete. Raises OutputExists when
    `out` is there and may not be replaced, OutputError when it cannot be written or another process writes it.
    """
    _check_target(out, overwrite=overwrite)
    partial, replaced = (out.with_name(f".{out.name}.{ending}") for ending in ("partial", "replaced"))
    parents = [parent for parent in out.parents if not parent.exists()]
    try:
        with explained(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            lock = _claim(partial, out)
        try:
            with explained(out):
                _mend(out, replaced)
                _check_target(out, overwrite=overwrite)
            yield partial
            with explained(out):
                _publish(partial, out, replaced=replaced, overwrite=overwrite)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)
    finally:
        # After a success, and where others wrote meanwhile, they are not empty and stay.
        with suppress(OSError):
            for parent in parents:
                parent.rmdir()


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Turn what the operating system has against writing to `out` into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{out}: {_reason(error)}") from error


def check_space(out: Path, folder: Path, *, needed_bytes: int) -> None:
    """Raise OutputError when the disk of `folder` has less free than is needed to write `out`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"{out}: the disk has {free / 1e9:.2f} GB free, and {needed_bytes / 1e9:.2f} GB are needed.\n"
            "    Free some space, or name a folder on another disk."
        )


def _reason(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename is not None else ""
    if error.errno in _DISK_FULL:
        return "the disk is full; nothing was kept.\n    Free some space, or name a folder on another disk."
    if error.errno == errno.EFBIG:
        return "the disk takes no file of this size; nothing was kept.\n    Make them smaller with --max-shard-size."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"a part of this path is no folder{place}.\n    Name another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"may not be written: {error.strerror}{place}.\n    Name another folder, or ask for the right to write."
    return f"cannot be written: {error.strerror or error}{place}."


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise OutputExists(
            f"{out} exists already.\n    Name a new folder; `evovlm merge --overwrite` replaces a model folder."
        )
    if out.is_symlink():
        raise OutputExists(f"{out} is a link, and is not replaced.\n    Name the folder it leads to, or remove it.")
    if not (out / "config.json").is_file() or not any(out.glob("*.safetensors")):
        raise OutputExists(
            f"{out} is not a model folder (config.json and safetensors), and is not replaced.\n"
            "    Name another folder, or remove it yourself."
        )


def _claim(partial: Path, out: Path) -> int:
    """Make the folder, empty but for a lock file that is locked until the descriptor returned is closed."""
    for _ in range(_ATTEMPTS):
        partial.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            # A process that ends may remove the folder at any moment before the lock is ours.
            lock = os.open(partial / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if _locked(lock, partial, out):
                _empty(partial)
                return lock
            os.close(lock)
    raise OutputError(f"{out}: other processes keep writing there. Name another folder.")


def _locked(lock: int, partial: Path, out: Path) -> bool:
    """Lock the file, and say whether it is still the folder's; raises OutputError when another process holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OutputError(
            f"{out}: another process is writing a model there now.\n    Wait for it, or name another folder."
        ) from None
    except OSError:
        # A file system without locks: nobody can tell whether what lies there is still at work.
        if any(path.name != _LOCK_FILE for path in partial.iterdir()):
            os.close(lock)
            raise OutputError(
                f"{out}: {partial} is there, perhaps from a merge at work.\n    Remove it if none is."
            ) from None
    try:
        return os.path.samestat(os.fstat(lock), (partial / _LOCK_FILE).stat())
    except FileNotFoundError:
        return False


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK_FILE:
            path.unlink()


def _mend(out: Path, replaced: Path) -> None:
    """Undo what a process left that was killed while it replaced a folder."""
    if replaced.exists() and not os.path.lexists(out):
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _publish(partial: Path, out: Path, *, replaced: Path, overwrite: bool) -> None:
    _check_target(out, overwrite=overwrite)
    if os.path.lexists(out):
        out.rename(replaced)
    try:
        partial.rename(out)
    finally:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
    # Only now: until its name was free, another process could have locked a new file in the folder.
    (out / _LOCK_FILE).unlink()
    shutil.rmtree(replaced, ignore_errors=True)
