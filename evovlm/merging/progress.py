"""Who wants to know how far the writing of a model is."""

from typing import Protocol


class WriteObserver(Protocol):
    """Told after every piece that is written; from one thread at a time, though not always the same."""

    def on_progress(self, *, done_bytes: int, total_bytes: int, tensors_done: int, tensors_total: int) -> None:
        """Take note; whoever writes waits meanwhile."""
