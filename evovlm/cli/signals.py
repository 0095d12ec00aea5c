"""What stops a long command from outside: Ctrl-C and SIGTERM, both in the same orderly way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
TERMINATED = 143
"""The exit codes of a command that a signal ended, as shells have them: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill."""


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise Terminated on SIGTERM meanwhile; only the main thread may ask for it."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(stopped: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was stopped so."""
    return TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED
