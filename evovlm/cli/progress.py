"""Progress displays on the standard error."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.spinner import Spinner
from rich.text import Text

from evovlm.cli.rendering import duration, percent, without_controls
from evovlm.texts.languages import ENGLISH, Say

if TYPE_CHECKING:
    from evovlm.evaluation.batches import AnswerProgress
    from evovlm.runs.folder.entries import Entry
    from evovlm.search.loop import Generation

SHOWN_AFTER_S = 0.7
"""On a terminal, a bar replaces the spinner after this time."""
SILENT_S = 1.0
"""Elsewhere, progress is printed after this time."""
STEP_S = 1.0
"""Elsewhere, a step that takes longer than this is a line."""
_KNOWN_SHARE = 0.1
"""The speed of the first answers says little about the rest before this share of the questions is answered."""
_WIDE = 100
"""From this width on, a terminal has room for a long bar."""
_SHORTEST_TITLE = 12
_ROOM_OF_STATE = len("1000/1000, about 12:34 min left") + 5
"""The cells beside title and bar that spinner and state need at least, with the spaces between them."""
_LINE_EVERY_S = 10.0
"""How often progress is printed where the output is not a terminal."""


def stderr_console() -> Console:
    """Return a console on stderr, so that progress never mixes with results."""
    return Console(stderr=True)


class Waiting:
    """What a command is doing before it has results: a spinner with a title on a terminal, elsewhere a line.

    The spinner is shown before the work begins, which may be an import that stops all threads for a while. The line is
    printed once, after `silent_s` seconds (`STEP_S`). Use it as `with Waiting("loading"): ...`, or `close()` it.
    Another display may start once it is closed.
    """

    def __init__(self, title: str, *, console: Console | None = None, silent_s: float | None = None) -> None:
        self._title = title
        self._console = console or stderr_console()
        self._live: Live | None = None
        self._timer = threading.Timer(STEP_S if silent_s is None else silent_s, self._print)
        self._timer.daemon = True
        if self._console.is_terminal:
            # The title may come from a file: no markup.
            spinner = Spinner("dots", text=Text(title), style="status.spinner")
            self._live = Live(spinner, console=self._console, refresh_per_second=12.5, transient=True)
            self._live.start(refresh=True)
        else:
            self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the spinner, or do not print the line."""
        self._timer.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self) -> None:
        _print_plainly(self._console, self._title)


def _print_plainly(console: Console, text: str) -> None:
    """Print a line where the output is not a terminal: without rich, which would break it at a terminal's width."""
    console.file.write(without_controls(text) + "\n")
    console.file.flush()


class _Part(NamedTuple):
    """A part of a state; of those that do not all fit, the ones of the lowest `rank` are shown."""

    text: str
    rank: int


_LEFT = 0
_COUNT = -1
"""The ranks of the time left and of the count, which are shown before anything else."""


def joined(parts: Sequence[_Part], *, width: int | None = None, comma: str = ", ") -> str:
    """Return the parts in their order, separated by commas; of those that exceed the width, the most important."""
    shown = list(parts)
    while width is not None and len(shown) > 1 and cell_len(comma.join(part.text for part in shown)) > width:
        shown.remove(max(shown, key=lambda part: part.rank))
    return comma.join(part.text for part in shown)


class _Bar:
    """A live line that fits the terminal: spinner, title, bar, count and state.

    The spinner shows that the work continues where the next count takes long. Without a `total`, the bar moves too.
    """

    def __init__(self, console: Console, title: str, *, total: int | None, comma: str = ", ") -> None:
        self._console = console
        self._comma = comma
        self._bar_width = 20 if console.width >= _WIDE else 10
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=self._bar_width),
        )
        self._progress = Progress(
            *columns, TextColumn("{task.fields[state]}", markup=False), console=console, transient=True
        )
        self._progress.start()
        self._task = self._progress.add_task(self._short(title), total=total, state="")

    def show(self, title: str, parts: Sequence[_Part], *, completed: int, total: int | None) -> None:
        """Show another state."""
        short = self._short(title)
        # The spinner, one space between columns, and one at the end, where some terminals break the line.
        free = self._console.width - cell_len(short) - self._bar_width - 5
        state = joined(parts, width=free, comma=self._comma)
        self._progress.update(self._task, description=short, completed=completed, total=total, state=state)

    def stop(self) -> None:
        """Remove the line."""
        self._progress.stop()

    def _short(self, title: str) -> str:
        """Return the title, of a long one its end: of a path that is the name."""
        most = max(_SHORTEST_TITLE, self._console.width - self._bar_width - _ROOM_OF_STATE)
        if cell_len(title) <= most:
            return title
        end = title
        while cell_len(end) > most - 1:
            end = end[1:]
        return f"…{end}"


def _written_parts(done_bytes: int, total_bytes: int, speed: float) -> list[_Part]:
    """Return how much is written, the speed (in bytes per second) and the time left."""
    parts = [_Part(f"{done_bytes / 1e9:.2f} of {total_bytes / 1e9:.2f} GB", 1)]
    if speed > 0:
        parts.append(_Part(f"{speed / 1e9:.2f} GB/s", 2))
    if done_bytes == total_bytes:
        parts.append(_Part("waiting for the disk", _LEFT))
    elif speed > 0:
        parts.append(_Part(f"about {duration((total_bytes - done_bytes) / speed)} left", _LEFT))
    return parts


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
        # The models are opened and checked before the first tensor is written.
        self._waiting = Waiting(f"{title}: opening models", console=self._console)
        self._bar: _Bar | None = None
        self._began = clock()
        self._first: tuple[float, int] | None = None
        self._shown_at: float | None = None

    def on_progress(self, *, done_bytes: int, total_bytes: int, tensors_done: int, tensors_total: int) -> None:
        """Show the progress, unless the writing has only just begun."""
        now = self._clock()
        if self._first is None:
            self._waiting.close()
            self._first = now, done_bytes
        if now - self._began < (SHOWN_AFTER_S if self._console.is_terminal else SILENT_S):
            return
        speed = (done_bytes - self._first[1]) / (now - self._first[0]) if now > self._first[0] else 0.0
        tensors = _Part(f"{tensors_done}/{tensors_total} tensors", 3)
        parts = [tensors, *_written_parts(done_bytes, total_bytes, speed)]
        if not self._console.is_terminal:
            if self._shown_at is None or now - self._shown_at >= _LINE_EVERY_S:
                self._shown_at = now
                _print_plainly(self._console, f"{self._title}: {joined(parts)}")
            return
        if self._bar is None:
            self._bar = _Bar(self._console, self._title, total=total_bytes)
        self._bar.show(self._title, parts, completed=done_bytes, total=total_bytes)

    def close(self) -> None:
        """Remove the display."""
        self._waiting.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ScoreProgress:
    """Shows a scoring if it takes long: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or stderr_console()
        self._clock = clock
        self._began = clock()
        self._shown_at: float | None = None
        self._title = ""
        self._waiting = Waiting("opening tasks", console=self._console)
        self._bar: _Bar | None = None

    def loading(self, *, model: str) -> None:
        """Show that a model is being loaded."""
        self._wait(f"loading {model}")

    def asking(self, *, model: str, task: str) -> None:
        """Show the progress of another task from the start."""
        self._title = f"{model}, {task}"
        self._wait(f"{self._title}: preparing the questions")

    def answered(self, progress: "AnswerProgress") -> None:
        """Show the progress: questions, speed, time left."""
        done, total = progress.done, progress.total
        is_narrow = self._console.is_terminal and self._console.width < _WIDE
        parts = [_Part(f"{done}/{total}{'' if is_narrow else ' questions'}", _COUNT)]
        # The first answers to finish are the shortest, and those still being written are not counted.
        is_known = progress.asked >= _KNOWN_SHARE * (total - done + progress.asked)
        if is_known and progress.tokens and progress.seconds:
            parts.append(_Part(f"{progress.tokens / progress.seconds:.0f} tokens/s", 2))
        if is_known and progress.asked and done < total:
            parts.append(_Part(f"about {duration(progress.seconds / progress.asked * (total - done))} left", _LEFT))
        self._show(parts, completed=done, total=total)

    def close(self) -> None:
        """Remove the display."""
        self._waiting.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _wait(self, title: str) -> None:
        self.close()
        self._waiting = Waiting(title, console=self._console)

    def _show(self, parts: Sequence[_Part], *, completed: int, total: int) -> None:
        now = self._clock()
        if self._console.is_terminal:
            if self._bar is None and now - self._began >= SHOWN_AFTER_S:
                self._waiting.close()
                self._bar = _Bar(self._console, self._title, total=total)
            if self._bar is not None:
                self._bar.show(self._title, parts, completed=completed, total=total)
            return
        self._waiting.close()
        if now - self._began >= SILENT_S and (self._shown_at is None or now - self._shown_at >= _LINE_EVERY_S):
            self._shown_at = now
            _print_plainly(self._console, f"{self._title}: {joined(parts)}")


class SearchProgress:
    """Shows the progress of a search: a live bar on a terminal, one plain line per generation elsewhere.

    `say` gives the texts of a language; warnings are English. Those in `warned` are not shown again: searches that
    share the set show each warning once.
    """

    def __init__(
        self,
        *,
        title: str,
        console: Console | None = None,
        say: Say = ENGLISH,
        warned: set[str] | None = None,
    ) -> None:
        self._warned = set() if warned is None else warned
        self._title = title
        self._console = console or stderr_console()
        self._text = say
        # Models are fetched and opened before the search begins.
        self._waiting = Waiting(say("progress_opening", title=title), console=self._console)
        self._bar: _Bar | None = None
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
        for warning in (each for each in warnings if each not in self._warned):
            self._warned.add(warning)
            self._say(f"warning: {warning}", style="yellow")
        if done:
            count = f"{done}" if candidates is None else self._text("progress_of", done=done, total=candidates)
            self._say(self._text("progress_resuming", title=self._title, count=count))
        self._candidates, self._generations, self._replayed = candidates, generations, done
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._bar = _Bar(self._console, self._title, total=candidates, comma=self._text("comma"))
            self._refresh()

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
        self._refresh()

    def generation_ended(self, generation: "Generation") -> None:
        """Show the result of a generation."""
        fitnesses = [outcome.fitness for outcome in generation.outcomes if hasattr(outcome, "fitness")]
        self._mean = sum(fitnesses) / len(fitnesses)
        self._generation = generation.number + 1
        if self._bar is not None:
            self._refresh()
        elif self._seen > self._replayed:
            # A replayed generation was printed when it was new.
            state = joined(self._parts(), comma=self._text("comma"))
            self._say(self._text("progress_line", title=self._title, state=state))

    def close(self) -> None:
        """Remove the display."""
        self._waiting.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _refresh(self) -> None:
        if self._bar is not None:
            count = f"{self._seen}" if self._candidates is None else f"{self._seen}/{self._candidates}"
            parts = [_Part(count, _COUNT), *self._parts()]
            self._bar.show(self._title, parts, completed=self._seen, total=self._candidates)

    def _parts(self) -> list[_Part]:
        say = self._text
        of = "" if self._generations is None else f"/{self._generations}"
        parts = [_Part(say("progress_generation", n=f"{self._generation}{of}"), 3)]
        if self._best is not None:
            # In a race the fitness is an estimate, which may be above the highest score.
            parts.append(_Part(say("progress_best", score=percent(min(self._best, 1.0))), 1))
        if self._mean is not None:
            parts.append(_Part(say("progress_mean", score=percent(self._mean)), 4))
        if self._in_part:
            parts.append(_Part(say("progress_samples", n=self._samples), 5))
        if self._failures:
            parts.append(_Part(say("progress_failed", n=self._failures), 2))
        fresh = self._seen - self._replayed
        if fresh > 0 and self._candidates is not None and self._seen < self._candidates:
            left = (time.monotonic() - self._began) / fresh * (self._candidates - self._seen)
            parts.append(_Part(say("progress_left", time=duration(left, say=say)), _LEFT))
        return parts

    def _say(self, text: str, *, style: str | None = None) -> None:
        if self._console.is_terminal:
            self._console.print(text, style=style, markup=False, highlight=False)
        else:
            _print_plainly(self._console, text)
