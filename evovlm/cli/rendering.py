"""What several commands show alike: tables, score cells, the curve of a run, progress."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from evovlm.runs.journal import Entry
    from evovlm.search.loop import Generation

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""

_BARS = "▁▂▃▄▅▆▇█"


def percent(value: float) -> str:
    """Return a score in [0, 1] as people read it: 41.5."""
    return f"{100 * value:.1f}"


def interval_text(low: float, high: float) -> str:
    """Return an interval of scores: `37.2 - 45.8`."""
    return f"{percent(low)} - {percent(high)}"


def spark_line(values: Sequence[float], *, low: float, high: float) -> str:
    """Return one bar a value, between `low` and `high`."""
    scale = (high - low) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int((value - low) / scale * len(_BARS)))] for value in values)


def stderr_console() -> Console:
    """Return a console on stderr: progress never mixes with results."""
    return Console(stderr=True)


class SearchProgress:
    """Shows a run as it goes: a live bar on a terminal, one plain line a generation elsewhere."""

    def __init__(self, *, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or stderr_console()
        self._live = self._console.is_terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._best = float("-inf")
        self._generations = 0
        self._failures = 0
        self._began = time.monotonic()

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        """Open the display."""
        for warning in warnings:
            self._console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
        self._generations = generations
        if done:
            self._say(f"{self._title}: going on after {done} of {candidates} candidates")
        if self._live:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[best]}"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=candidates, best="")

    def evaluated(self, entry: "Entry") -> None:
        """Count a candidate."""
        fitness = getattr(entry.outcome, "fitness", None)
        if fitness is None:
            self._failures += 1
        else:
            self._best = max(self._best, fitness)
        if self._progress is not None and self._task is not None:
            best = f"best {percent(self._best)}" if self._best > float("-inf") else ""
            failed = f", {self._failures} failed" if self._failures else ""
            self._progress.update(self._task, advance=1, best=best + failed)

    def generation_ended(self, generation: "Generation") -> None:
        """Say how a generation did."""
        fitnesses = [outcome.fitness for outcome in generation.outcomes if hasattr(outcome, "fitness")]
        mean = sum(fitnesses) / len(fitnesses)
        if self._live:
            return
        elapsed = time.monotonic() - self._began
        left = elapsed / (generation.number + 1) * (self._generations - generation.number - 1)
        self._say(
            f"{self._title}: generation {generation.number + 1}/{self._generations}, best {percent(self._best)}, "
            f"mean {percent(mean)}, about {left:.0f} s left"
        )

    def close(self) -> None:
        """Take the display down."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _say(self, text: str) -> None:
        if self._live:
            self._console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
