"""How commands end on Ctrl-C, SIGTERM and SIGHUP."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 and the signal's number, as shells have it."""
_LOOKS_AGAIN_AFTER_S = 0.05
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """SIGTERM, as batch systems send it before they kill, or SIGHUP, when the terminal is closed.

    `code` is the exit code: 143 or 129.
    """

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """End the process with the signal's exit code on SIGTERM or SIGHUP: unfinished files are removed on the way.

    Ctrl-C waits for the end of an import: torch aborts when one of its own is interrupted. A signal that arrives in a
    destructor or a callback, where Python ignores exceptions, ends the process as well. Only the main thread may use
    this.
    """
    before, ignore = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Interruption())

    def raise_again(ignored: "sys.UnraisableHookArgs") -> None:
        if isinstance(ignored.exc_value, KeyboardInterrupt | SystemExit):
            _raise_soon(ignored.exc_value.with_traceback(None))
        else:
            ignore(ignored)

    sys.unraisablehook = raise_again
    try:
        with _on_signals(SystemExit):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = ignore
        signal.signal(signal.SIGINT, before)


def _raise_soon(ending: BaseException) -> None:
    """Raise it a little later, and then after an import in progress."""

    def end(_number: int, frame: FrameType | None) -> None:
        if not _in_import(frame):
            raise ending
        signal.setitimer(signal.ITIMER_REAL, _LOOKS_AGAIN_AFTER_S)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _LOOKS_AGAIN_AFTER_S)


class _Interruption:
    """What Ctrl-C does: it raises KeyboardInterrupt, after an import in progress; a second one does not wait."""

    def __init__(self) -> None:
        self._waits = False

    def __call__(self, _number: int, frame: FrameType | None) -> None:
        if not _in_import(frame):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt
        if self._waits:
            os.write(2, b"\nstopped\n")
            os._exit(INTERRUPTED)
        self._waits = True
        _raise_soon(KeyboardInterrupt())


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def stopping(text: str | None = None, *, flag: str | None = None) -> Iterator[None]:
    """End the command with the signal's exit code on Ctrl-C, SIGTERM or SIGHUP, after its displays are closed.

    `text` is what is said then; without it, that nothing is lost, and the command that continues: the one that was
    typed, with `flag` added. Only the main thread may use this.
    """
    with _on_signals(Ended):
        try:
            yield
        except KeyboardInterrupt as stopped:
            said = f"\nstopped; nothing is lost. To continue:\n    {_typed_with(flag)}" if text is None else text
            typer.echo(said, err=True)
            raise typer.Exit(stopped.code if isinstance(stopped, Ended) else INTERRUPTED) from None


@contextmanager
def _on_signals(ended: Callable[[int], BaseException]) -> Iterator[None]:
    """Raise `ended`, with the exit code, on SIGTERM or SIGHUP; one that the parent ignores (nohup) stays ignored."""
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]
    before = {each: signal.getsignal(each) for each in _ENDING}
    caught = [each for each in _ENDING if before[each] != signal.SIG_IGN]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in caught:
            # Both signals often come together; the first one counts.
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGHUP:
            _detach(terminals)
        raise ended(128 + number)

    for each in caught:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, before[each])


def _detach(terminals: list[int]) -> None:
    """Discard what is still written to a terminal that is closed: writing to it would fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _typed_with(flag: str | None) -> str:
    words = sys.argv[1:]
    if flag is not None and flag not in words:
        words.insert(words.index("--") if "--" in words else len(words), flag)
    return shlex.join(["evovlm", *words])
