"""Writes a file so that it is there whole or not at all, whenever the process is killed."""

import os
from pathlib import Path

PARTIAL = ".partial"


def write_atomically(path: Path, text: str) -> None:
    """Write the text (UTF-8) to `path` through a file beside it, and wait until both file and name are on disk."""
    beside = path.with_name(path.name + PARTIAL)
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
