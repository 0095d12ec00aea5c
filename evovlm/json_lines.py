"""Files with one JSON object per line, which survive a killed process and a power cut."""

import json
from collections.abc import Mapping
from pathlib import Path

from evovlm.files import append_to, cut_file, read_foreign
from evovlm.foreign_json import LIMIT_BYTES


def json_line(row: Mapping[str, object]) -> str:
    """Return a row as a line of the file."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add a row and wait until it is on the disk. Raises OutputError, without half a line, when that fails."""
    append_to(path, json_line(row).encode())


def whole_lines(content: bytes) -> list[bytes]:
    """Return the lines of a file's content without a torn last line, which has no end or is not JSON (zero bytes)."""
    lines = content.split(b"\n")[:-1]
    if lines:
        try:
            json.loads(lines[-1])
        except ValueError:
            del lines[-1]
        except RecursionError:
            # It is whole; whoever reads the line refuses it.
            pass
    return lines


def repaired_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that will be continued, after cutting off a torn last line.

    Raises OutputError when the file cannot be changed.
    """
    content = read_foreign(path, limit_bytes=LIMIT_BYTES) if path.exists() else b""
    lines = whole_lines(content)
    size_bytes = sum(len(line) + 1 for line in lines)
    if size_bytes < len(content):
        # The process stopped while it wrote this row, which will be made again.
        cut_file(path, size_bytes=size_bytes)
    return lines
