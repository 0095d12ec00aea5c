"""What a terminal shows while something takes long of which nobody can say how far it is."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

SILENT_S = 2.0
"""What takes no longer than this shows no progress."""


class Waiting:
    """A turning sign and what is waited for, on a terminal and after `after_s` seconds; elsewhere nothing at all.

    Use it as `with Waiting("loading"): ...`, or `close()` it. Another display may begin once it is closed.
    """

    def __init__(self, title: str, *, console: Console | None = None, after_s: float = SILENT_S) -> None:
        self._title = title
        self._console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._status: Status | None = None
        self._closed = False
        self._timer = threading.Timer(after_s, self._show)
        self._timer.daemon = True
        if self._console.is_terminal:
            self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take it down, or let it never appear."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._status is not None:
                self._status.stop()
                self._status = None

    def _show(self) -> None:
        with self._lock:
            if not self._closed:
                # What is named comes from files too: no markup.
                self._status = Status(self._title.replace("[", r"\["), console=self._console)
                self._status.start()
