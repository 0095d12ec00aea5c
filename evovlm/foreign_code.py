"""The gate for code that a file or a name brings along: metric scripts and task files of the lm-evaluation-harness.

Such code runs only where answers are scored, and only with `--allow-code` (`allow_code=True` in Python). A config, a
task file, a journal or the environment cannot grant it. Packages that the user installed are not foreign code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import CodeNotAllowed, TaskError

_LOOKED_AT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignCode:
    """A file that scoring would run: a path, a URL or `hub:NAME`, and what it is used for."""

    file: str
    used_for: str

    def __str__(self) -> str:
        return f"{self.file} ({self.used_for})"


def require_allowed(found: Sequence[ForeignCode], *, allow_code: bool) -> None:
    """Raise CodeNotAllowed, which lists every file, unless nothing foreign would run or the user allowed it."""
    if not found or allow_code:
        return
    listed = "\n".join(f"    {each}" for each in dict.fromkeys(found))
    raise CodeNotAllowed(
        f"scoring would run code from these files:\n{listed}\n"
        "    Read them first. To run them, add --allow-code (in Python: allow_code=True)."
    )


def read_start(script: Path) -> str:
    """Return the beginning of a file that holds code, to see what else it names.

    Raises TaskError if the file cannot be read.
    """
    try:
        with script.open("rb") as stream:
            return stream.read(_LOOKED_AT_BYTES).decode(errors="replace")
    except OSError as error:
        raise TaskError(f"{script}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
