"""Progress displays on the standard error."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.status import Status

from evovlm.cli.rendering import duration, percent

if TYPE_CHECKING:
    from evovlm.evaluation.batches import AnswerProgress
    from evovlm.runs.folder.entries import Entry
    from evovlm.search.loop import Generation

SILENT_S = 2.0
"""Progress is shown after this time."""
_KNOWN_SHARE = 0.1
"""The speed of the first answers says little about the rest before this share of the questions is answered."""
_LINE_EVERY_S = 10.0
"""How often progress is printed where the output is not a terminal."""


def stderr_console() -> Console:
    """Return a console on stderr, so that progress never mixes with results."""
    return Console(stderr=True)


class Waiting:
    """A spinner with a title, on a terminal and after `after_s` seconds; elsewhere nothing.

    Use it as `with Waiting("loading"): ...`, or `close()` it. Another display may start once it is closed.
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
        """Remove the spinner, or keep it from appearing."""
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._status is not None:
                self._status.stop()
                self._status = None

    def _show(self) -> None:
        with self._lock:
            if not self._closed:
                # The title may come from a file: no markup.
                self._status = Status(self._title.replace("[", r"\["), console=self._console)
                self._status.start()


def _written_state(done_bytes: int, total_bytes: int, speed: float) -> str:
    """Return how much is written, the speed (in bytes per second) and the time left."""
    parts = [f"{done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB"]
    if speed > 0:
        parts.append(f"{speed / 1e9:.2f} GB/s")
    if done_bytes == total_bytes:
        parts.append("waiting for the disk")
    elif speed > 0:
        parts.append(f"about {duration((total_bytes - done_bytes) / speed)} left")
    return ", ".join(parts)


class WriteProgress:
    """Shows the writing of a model if it takes long: a live bar on a terminal, a line now and then elsewhere.

    `clock` gives seconds and never goes back. Speed and time left are measured from the first chunk on, without the
    time for opening or fetching models.
    """

    def __init__(
        self, *, title: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title = title
        self._console = console or stderr_console()
        self._clock = clock
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._began = clock()
        self._first: tuple[float, int] | None = None
        self._shown_at: float | None = None

    def on_progress(self, *, done_bytes: int, total_bytes: int, tensors_done: int, tensors_total: int) -> None:
        """Show the progress, unless the writing has only just begun."""
        now = self._clock()
        if self._first is None:
            self._first = now, done_bytes
        if now - self._began < SILENT_S:
            return
        speed = (done_bytes - self._first[1]) / (now - self._first[0]) if now > self._first[0] else 0.0
        state = f"{tensors_done}/{tensors_total} tensors, {_written_state(done_bytes, total_bytes, speed)}"
        if not self._console.is_terminal:
            if self._shown_at is None or now - self._shown_at >= _LINE_EVERY_S:
                self._shown_at = now
                self._console.file.write(f"{self._title}: {state}\n")
                self._console.file.flush()
            return
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[state]}"))
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total_bytes, state="")
        if self._task is not None:
            self._progress.update(self._task, completed=done_bytes, state=state)

    def close(self) -> None:
        """Remove the display."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class ScoreProgress:
    """Shows a scoring if it takes long: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or stderr_console()
        self._clock = clock
        self._began = clock()
        self._shown_at: float | None = None
        self._title = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def loading(self, *, model: str) -> None:
        """Show that a model is being loaded."""
        self._show(f"loading {model}", completed=0, total=None, state="")

    def asking(self, *, model: str, task: str) -> None:
        """Show the progress of another task from the start."""
        self._title = f"{model}, {task}"
        self._show(self._title, completed=0, total=None, state="")

    def answered(self, progress: "AnswerProgress") -> None:
        """Show the progress: questions, speed, time left."""
        done, total = progress.done, progress.total
        parts = [f"{done}/{total} questions"]
        # The first answers to finish are the shortest, and those still being written are not counted.
        is_known = progress.asked >= _KNOWN_SHARE * (total - done + progress.asked)
        if is_known and progress.tokens and progress.seconds:
            parts.append(f"{progress.tokens / progress.seconds:.0f} tokens/s")
        if is_known and progress.asked and done < total:
            parts.append(f"about {duration(progress.seconds / progress.asked * (total - done))} left")
        self._show(self._title, completed=done, total=total, state=", ".join(parts))

    def close(self) -> None:
        """Remove the display."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, title: str, *, completed: int, total: int | None, state: str) -> None:
        now = self._clock()
        if self._console.is_terminal:
            if self._progress is None and now - self._began >= SILENT_S:
                columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20))
                state_column = TextColumn("{task.fields[state]}")
                self._progress = Progress(*columns, state_column, console=self._console, transient=True)
                self._progress.start()
                self._task = self._progress.add_task(title, total=total, state=state)
            elif self._progress is not None and self._task is not None:
                self._progress.update(self._task, description=title, completed=completed, total=total, state=state)
        elif (
            state
            and now - self._began >= SILENT_S
            and (self._shown_at is None or now - self._shown_at >= _LINE_EVERY_S)
        ):
            self._shown_at = now
            self._console.file.write(f"{title}: {state}\n")
            self._console.file.flush()


class SearchProgress:
    """Shows the progress of a search: a live bar on a terminal, one plain line per generation elsewhere."""

    def __init__(self, *, title: str, console: Console | None = None, silent_s: float = SILENT_S) -> None:
        self._title = title
        self._console = console or stderr_console()
        # Models are fetched and opened before the search begins.
        self._waiting = Waiting(f"{title}: opening models and tasks", console=self._console, after_s=silent_s)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._best: float | None = None
        self._mean: float | None = None
        self._candidates: int | None = 0
        self._generations: int | None = 0
        self._generation = 0
        self._replayed = 0
        self._seen = 0
        self._failures = 0
        self._samples = 0
        self._in_part = False
        self._began = time.monotonic()

    def started(self, *, candidates: int | None, generations: int | None, done: int, warnings: tuple[str, ...]) -> None:
        """Open the display; without a number of candidates, it cannot show the time left."""
        self._waiting.close()
        for warning in warnings:
            self._say(f"warning: {warning}", style="yellow")
        of = "" if candidates is None else f" of {candidates}"
        if done:
            self._say(f"{self._title}: resuming after {done}{of} candidates")
        self._candidates, self._generations, self._replayed = candidates, generations, done
        self._began = time.monotonic()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
            self._progress = Progress(
                *columns, TextColumn("{task.fields[state]}"), console=self._console, transient=True
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=candidates, state="")

    def evaluated(self, entry: "Entry") -> None:
        """Count a candidate."""
        self._seen += 1
        evaluation = entry.evaluation
        if evaluation is None:
            self._failures += 1
        elif self._best is None or evaluation.fitness > self._best:
            self._best = evaluation.fitness
        scores = evaluation.scores.values() if evaluation else ()
        self._samples += sum(score.n for score in scores)
        self._in_part |= any(score.rows is not None for score in scores)
        self._refresh(advance=1)

    def generation_ended(self, generation: "Generation") -> None:
        """Show the result of a generation."""
        fitnesses = [outcome.fitness for outcome in generation.outcomes if hasattr(outcome, "fitness")]
        self._mean = sum(fitnesses) / len(fitnesses)
        self._generation = generation.number + 1
        if self._progress is not None:
            self._refresh(advance=0)
        elif self._seen > self._replayed:
            # A replayed generation was printed when it was new.
            self._say(f"{self._title}: {self._state()}")

    def close(self) -> None:
        """Remove the display."""
        self._waiting.close()
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _refresh(self, *, advance: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=advance, state=self._state())

    def _state(self) -> str:
        of = "" if self._generations is None else f"/{self._generations}"
        parts = [f"generation {self._generation}{of}"]
        if self._best is not None:
            # In a race the fitness is an estimate, which may be above the highest score.
            parts.append(f"best {percent(min(self._best, 1.0))}")
        if self._mean is not None:
            parts.append(f"mean {percent(self._mean)}")
        if self._in_part:
            parts.append(f"{self._samples} samples")
        if self._failures:
            parts.append(f"{self._failures} failed")
        fresh = self._seen - self._replayed
        if fresh > 0 and self._candidates is not None and self._seen < self._candidates:
            left = (time.monotonic() - self._began) / fresh * (self._candidates - self._seen)
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _say(self, text: str, *, style: str | None = None) -> None:
        if self._console.is_terminal:
            self._console.print(text, style=style, markup=False, highlight=False)
        else:
            # Written without rich, which would break the line at a terminal's width.
            self._console.file.write(text + "\n")
            self._console.file.flush()
