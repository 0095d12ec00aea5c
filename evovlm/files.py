"""Writes files and folders whole or not at all, and says which links may be followed when files are read.

A file is written beside its target under a random name and then renamed; a folder is built in a hidden sibling,
`.NAME.partial`, which the process locks. Every OSError about a target becomes an OutputError here. Nothing is opened
through a link for writing.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evovlm.errors import OutputError, OutputExists

_LOCK_FILE = ".evovlm-lock"
_ATTEMPTS = 100
_NAME_BYTES = 200
_LONGEST_NAME_BYTES = 255
_LONGEST_PATH_BYTES = 4000
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.partial")
# Errors of file systems that cannot sync a folder, or do not have hard links.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EMLINK)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file (text as UTF-8), in place of an older one, and wait until the file and its name are on the disk.

    A link is replaced, never followed. Raises OutputError when the file cannot be written; an older one then stays.
    """
    with _content_beside(path, content) as beside, explained(path):
        beside.replace(path)
        _sync_folder(path.parent)


def write_new_file(path: Path, content: str | bytes) -> None:
    """Write a file as `write_file` does; raises OutputExists when something with this name exists."""
    refuse_existing(path)
    with _content_beside(path, content) as beside:
        _publish_new_file(beside, path)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, which becomes `path` when the body succeeds and is removed when it fails.

    Raises OutputExists when something with this name exists, OutputError when the file cannot be written.
    """
    refuse_existing(path)
    with explained(path):
        descriptor, beside = _create_beside(path)
        os.close(descriptor)
    try:
        yield beside
        _publish_new_file(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raise OutputExists when there is a file, a folder or a link of this name."""
    if os.path.lexists(path):
        raise OutputExists(f"{path} exists already and is not overwritten.\n    Choose another name, or remove it.")


def leftovers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield unfinished files of killed processes, each with the name of its target."""
    for path in folder.iterdir():
        if found := _LEFTOVER.fullmatch(path.name):
            yield path, found["name"]


def append_to(path: Path, content: bytes) -> None:
    """Append to a file, which is created if it does not exist, and wait until the content is on the disk.

    Raises OutputError when that fails; the file then ends where it ended before.
    """
    with explained(path, kept="what was written before is kept, and --resume continues after it"):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, content)
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def cut_file(path: Path, *, size_bytes: int) -> None:
    """Cut a file off after `size_bytes`. Raises OutputError when that fails."""
    with explained(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they do not exist. Raises OutputError when that fails."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


def inner_folder(folder: Path, name: str) -> Path:
    """Return a folder inside `folder` for writing. Raises OutputError when it is a link."""
    inner = folder / name
    with explained(folder):
        is_link = inner.is_symlink()
    if is_link:
        raise OutputError(f"{inner} is a link, and nothing is written through it.\n    Remove it.")
    return inner


def open_lock(file: Path) -> int:
    """Open a lock file, whose content stays, and return its descriptor. Raises OSError, also for a link."""
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden sibling of `out`, which becomes `out` when the body succeeds and is removed when it fails.

    An unfinished folder of a killed process is replaced. With `overwrite` an existing model folder is replaced, once
    the new one is complete. Raises OutputExists when `out` exists and may not be replaced, OutputError when it cannot
    be written or another process is writing it.
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
                _recover(out, replaced)
                _check_target(out, overwrite=overwrite)
            yield partial
            with explained(out):
                _publish(partial, out, replaced=replaced, overwrite=overwrite)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)
    finally:
        # After a success, and where other processes wrote meanwhile, they are not empty and stay.
        with suppress(OSError):
            for parent in parents:
                parent.rmdir()


@contextmanager
def explained(out: Path, *, kept: str = "nothing was written") -> Iterator[None]:
    """Turn an OSError about writing `out` into an OutputError that names `out`, the reason and what to do.

    `kept` says what remains after a failure.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{out}: {_reason(error, kept=kept)}") from error


def check_space(out: Path, folder: Path, *, needed_bytes: int) -> None:
    """Raise OutputError when the disk of `folder` has less free space than is needed to write `out`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"{out}: the disk has {free / 1e9:.2f} GB free, and {needed_bytes / 1e9:.2f} GB are needed.\n"
            "    Free some space, or choose another disk."
        )


def read_foreign(path: Path, *, limit_bytes: int) -> bytes:
    """Return the content of a file from someone else.

    Raises OSError for anything but a regular file of at most `limit_bytes`: pipes and devices would be read forever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        check_foreign(os.fstat(descriptor), path, limit_bytes=limit_bytes)
        return stream.read(limit_bytes + 1)


def check_foreign(state: os.stat_result, path: Path, *, limit_bytes: int) -> None:
    """Raise OSError unless this is the state of a regular file of at most `limit_bytes`."""
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, not a file", str(path))
    if state.st_size > limit_bytes:
        raise OSError(errno.EFBIG, f"it has {state.st_size} bytes, more than the {limit_bytes} allowed", str(path))


def name_problem(text: str) -> str | None:
    """Return why no file or folder can have this path; None where one can."""
    if "\0" in text:
        return "has a NUL character"
    try:
        parts = [os.fsencode(part) for part in text.split("/")]
    except UnicodeEncodeError:
        return "has half a surrogate pair, which is not a character"
    if any(len(part) > _LONGEST_NAME_BYTES for part in parts) or sum(map(len, parts)) > _LONGEST_PATH_BYTES:
        return f"is too long: a path has names of at most {_LONGEST_NAME_BYTES} bytes"
    return None


def expanded(path: Path) -> Path:
    """Return the path with `~` and `~user` replaced; a user who does not exist is part of an ordinary name."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether `path`, a file in `folder`, leads out of the folder through a link or "..".

    A folder of the hub's cache consists of links to the blobs of the same repository; these count as inside.
    """
    root, target = (Path(os.path.realpath(each)) for each in (folder, path))
    inside = [root]
    repository = root.parent.parent
    if root.parent.name == "snapshots" and repository.name.startswith(("models--", "datasets--")):
        inside.append(repository / "blobs")
    return not any(target.is_relative_to(each) for each in inside)


def _reason(error: OSError, *, kept: str) -> str:
    where = f" ({error.filename})" if error.filename is not None else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk is full; {kept}.\n    Free some space, or choose another disk."
        case errno.EFBIG:
            return (
                f"the disk does not take a file of this size; {kept}.\n"
                "    Choose another disk, or for a model smaller files (--max-shard-size)."
            )
        case errno.ENOTDIR | errno.EEXIST:
            return f"a part of this path is not a folder{where}.\n    Choose another location."
        case errno.ENOENT:
            return f"cannot be written: its folder does not exist{where}.\n    Make the folder, or choose another."
        case errno.EISDIR | errno.ENOTEMPTY:
            return f"cannot be written: a folder has this name{where}.\n    Choose another name."
        case errno.ENAMETOOLONG:
            return "cannot be written: the name is too long.\n    Choose a shorter one."
        case errno.ELOOP:
            return f"cannot be written: a link is in the way{where}.\n    Remove the link."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"cannot be written: {error.strerror}{where}.\n    Choose another location, or ask for permission."
    return f"cannot be written: {error.strerror or error}{where}.\n    Choose another location."


@contextmanager
def _content_beside(path: Path, content: str | bytes) -> Iterator[Path]:
    """Yield a file beside `path` with the content, which is on the disk; it is removed unless it was renamed."""
    data = content.encode() if isinstance(content, str) else content
    with explained(path):
        descriptor, beside = _create_beside(path)
    try:
        with explained(path):
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        yield beside
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _publish_new_file(beside: Path, path: Path) -> None:
    """Give a finished file its final name. Raises OutputExists when the name is taken, OutputError as `new_file`."""
    with explained(path):
        try:
            # Unlike renaming, this never replaces what another process wrote meanwhile.
            os.link(beside, path)
        except FileExistsError:
            refuse_existing(path)
            raise
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            refuse_existing(path)
            beside.replace(path)
        _sync_folder(path.parent)


def _create_beside(path: Path) -> tuple[int, Path]:
    # The random part may not make the name longer than a file system allows.
    name = path.name.encode()[:_NAME_BYTES].decode(errors="ignore")
    beside = path.with_name(f".{name}.{secrets.token_hex(8)}.partial")
    return os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), beside


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not overwrite:
        refuse_existing(out)
    if not os.path.lexists(out):
        return
    if out.is_symlink():
        raise OutputExists(f"{out} is a link, and is not replaced.\n    Name the folder it leads to, or remove it.")
    has_config = any((out / name).is_file() for name in ("config.json", "adapter_config.json"))
    if not has_config or not any(out.glob("*.safetensors")):
        raise OutputExists(
            f"{out} is not a model folder (config.json and safetensors), and is not replaced.\n"
            "    Name another folder, or remove it yourself."
        )


def _claim(partial: Path, out: Path) -> int:
    """Make the folder, empty except for a lock file, which is locked until the returned descriptor is closed."""
    for _ in range(_ATTEMPTS):
        if partial.is_symlink():
            raise OutputError(f"{out}: {partial} is a link, and nothing is written through it.\n    Remove it.")
        partial.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            # A process that ends may remove the folder at any moment before the lock is ours.
            lock = open_lock(partial / _LOCK_FILE)
            if _locked(lock, partial, out):
                _empty(partial)
                return lock
            os.close(lock)
    raise OutputError(f"{out}: other processes keep writing there.\n    Name another folder.")


def _locked(lock: int, partial: Path, out: Path) -> bool:
    """Lock the file, and return whether it is still in the folder; raises OutputError when another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OutputError(
            f"{out}: another process is writing there now.\n    Wait for it, or name another folder."
        ) from None
    except OSError:
        # A file system without locks: nothing shows whether another process still writes there.
        if any(path.name != _LOCK_FILE for path in partial.iterdir()):
            os.close(lock)
            raise OutputError(
                f"{out}: {partial} exists, and another process may be writing there.\n    Remove it if no process is."
            ) from None
    try:
        return os.path.samestat(os.fstat(lock), (partial / _LOCK_FILE).lstat())
    except FileNotFoundError:
        return False


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK_FILE:
            path.unlink()


def _recover(out: Path, replaced: Path) -> None:
    """Restore the folder after a process was killed while it replaced it."""
    if replaced.is_dir() and not replaced.is_symlink() and not os.path.lexists(out):
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
