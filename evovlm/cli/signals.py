"""How long commands end on Ctrl-C and SIGTERM."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from evovlm.cli.rendering import echo

INTERRUPTED = 130
TERMINATED = 143
"""The exit codes of a command that a signal ended, as shells have them: 128 and the signal's number."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill."""


@contextmanager
def stopping(text: str | None = None, *, flag: str | None = None) -> Iterator[None]:
    """End the command with the signal's exit code on Ctrl-C or SIGTERM, after its displays are closed.

    `text` is what is said then; without it, that nothing is lost, and the command that continues: the one that was
    typed, with `flag` added. Only the main thread may use this.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        said = f"\nstopped; nothing is lost. To continue:\n    {_typed_with(flag)}" if text is None else text
        echo(said, err=True)
        raise typer.Exit(TERMINATED if isinstance(stopped, Terminated) else INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _typed_with(flag: str | None) -> str:
    words = sys.argv[1:]
    if flag is not None and flag not in words:
        words.insert(words.index("--") if "--" in words else len(words), flag)
    return shlex.join(["evovlm", *words])
