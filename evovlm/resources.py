"""How much memory and disk space is available, and when Python looks for garbage."""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_disk_bytes(folder: Path) -> int | None:
    """Return the free bytes of the disk that `folder` is on or would be made on; None when that is unknown."""
    try:
        usage = shutil.disk_usage(_existing(folder))
    except OSError:
        return None
    # A file system that is not on a disk (/sys) has no size.
    return usage.free if usage.total else None


def device_number(folder: Path) -> int | None:
    """Return a number that folders on one disk share; None when it is unknown."""
    try:
        return _existing(folder).stat().st_dev
    except OSError:
        return None


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    place = folder.absolute()
    return next((each for each in (place, *place.parents) if os.access(each, os.F_OK)), place)


def available_memory_bytes() -> int | None:
    """Return how much memory a program can still take: of the machine, or of its container where that has less."""
    found = [each for each in (_of_machine(), _of_container()) if each is not None]
    return min(found, default=None)


def memory_bytes() -> int | None:
    """Return all memory of the machine, used or not, or of its container where that has less; None if unknown."""
    return min((each for each in (_physical(), _container_limit()) if each is not None), default=None)


def _of_machine() -> int | None:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    # All memory, where the free part is not reported (macOS).
    return _physical()


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> int | None:
    limit = _container_limit()
    try:
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return None if limit is None else max(0, limit - used)


def _container_limit() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        return None if limit == "max" else int(limit)
    except (OSError, ValueError):
        return None


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Turn off the search for cyclic garbage until the end of a block that makes many small objects and no garbage.

    Python would look at all objects again and again: a third of the time of opening thousands of tensors.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
