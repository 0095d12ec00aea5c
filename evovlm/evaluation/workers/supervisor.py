"""Keeps several workers busy, replaces those that are lost, and hands outcomes back in the order of the jobs.

Whatever the workers are (processes of this machine, actors of a Ray cluster), a `Crew` starts and stops them; here is
what is decided: who gets which job, what is tried again, and what is a candidate's failure.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from evovlm.errors import EvovlmError, RunError
from evovlm.evaluation.workers.jobs import Job, Workers
from evovlm.recipes.candidate import Evaluation, Failure

_OPENINGS = 3
"""So often in a row may a seat's worker be lost while it opens, before the seat is given up."""

# Reasons say nothing that differs between machines or workers, so that journals agree.
_LOST = Failure(kind="worker_lost", reason="two workers in turn ended while they scored it")
_LATE = Failure(kind="timed_out", reason="it took longer than the time limit, on two workers in turn")
_AGAIN = frozenset({"out_of_memory"})
"""Kinds of failure, told by a worker, that another worker may not have."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a worker says once it is open; see `Workers`."""

    sizes: Mapping[str, int]
    blocks: Mapping[str, int]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, workers: Workers) -> "Welcome":
        """Return what these workers have to say."""
        return cls(sizes=dict(workers.sizes), blocks=dict(workers.blocks), warnings=workers.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A worker cannot open what it was told to, for a reason that the user can mend."""

    error: EvovlmError


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker is no more; `how`, for people."""

    how: str


Report: TypeAlias = Welcome | Refused | Lost | Evaluation | Failure


class Crew(Protocol):
    """Numbered seats (from 0) with one worker each, which does one job at a time."""

    @property
    def n_seats(self) -> int:
        """How many workers there can be."""
        ...

    def start(self, seat: int) -> None:
        """Begin to open a worker in an empty seat; Welcome, Refused or Lost is reported later."""
        ...

    def give(self, seat: int, job: Job) -> None:
        """Give an open worker a job; its outcome or Lost is reported later."""
        ...

    def wait(self, timeout_s: float | None) -> Sequence[tuple[int, Report]]:
        """Return reports with their seats, as soon as there are any; none when the time is over. None is no limit."""
        ...

    def stop(self, seat: int) -> None:
        """End a seat's worker at once, whatever it does; nothing is reported of it any more."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class _Task:
    """A job of a round, how often it was tried, and the seat that it is not to be tried at again."""

    number: int
    job: Job
    tried: int = 0
    failed_at: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Round:
    """The jobs of one call: those that wait, and the outcomes that are there, by the jobs' numbers."""

    waiting: deque[_Task]
    found: dict[int, Evaluation | Failure] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class _Seat:
    is_open: bool = False
    is_given_up: bool = False
    openings: int = 0
    task: _Task | None = None
    round: _Round | None = None
    deadline: float | None = None


class Supervisor:
    """Workers over a crew; `open` it.

    A job whose worker is lost, late or out of memory is tried once more elsewhere, and is then a Failure.
    """

    def __init__(self, crew: Crew, *, welcome: Welcome, time_limit_s: float | None) -> None:
        self._crew = crew
        self._welcome = welcome
        self._time_limit_s = time_limit_s
        self._seats = [_Seat(is_open=True) for _ in range(crew.n_seats)]

    @classmethod
    def open(cls, crew: Crew, *, time_limit_s: float | None = None) -> "Supervisor":
        """Start every worker and wait until all are open; `time_limit_s` holds for each job.

        Raises the error of the first that cannot open, RunError when one ends meanwhile; none is left then.
        """
        welcomes: dict[int, Welcome] = {}
        with ExitStack() as if_refused:
            if_refused.callback(crew.close)
            for seat in range(crew.n_seats):
                crew.start(seat)
            while len(welcomes) < crew.n_seats:
                for seat, report in crew.wait(None):
                    if isinstance(report, Refused):
                        raise report.error
                    if not isinstance(report, Welcome):
                        how = report.how if isinstance(report, Lost) else "it answered what it was not asked"
                        raise RunError(
                            f"worker {seat + 1} of {crew.n_seats} ended while it opened the models ({how}).\n"
                            "    Look above for what it said; without a word, memory may have run out: fewer workers."
                        )
                    welcomes[seat] = report
            if_refused.pop_all()
        return cls(crew, welcome=welcomes[0], time_limit_s=time_limit_s)

    @property
    def sizes(self) -> Mapping[str, int]:
        """How many samples each task has, by name, in the order of the tasks."""
        return self._welcome.sizes

    @property
    def blocks(self) -> Mapping[str, int]:
        """How many decoder blocks each source has, by name."""
        return self._welcome.blocks

    @property
    def warnings(self) -> tuple[str, ...]:
        """What merges but may hurt."""
        return self._welcome.warnings

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Evaluation | Failure]:
        """Yield the outcome of each job in the order of the jobs, as soon as those before it are there.

        Raises the error of opening, or RunError, when no worker is left and none can be started.
        """
        this = _Round(waiting=deque(_Task(number=number, job=job) for number, job in enumerate(jobs)))
        for number in range(len(jobs)):
            self._hand_out(this)
            while number not in this.found:
                self._take_reports()
                self._end_late_ones()
                self._hand_out(this)
            yield this.found.pop(number)

    def close(self) -> None:
        """End all workers at once."""
        self._crew.close()

    def _hand_out(self, this: _Round) -> None:
        for place, seat in enumerate(self._seats):
            if not seat.is_open or seat.task is not None:
                continue
            task = next((task for task in this.waiting if self._may_take(place, task)), None)
            if task is None:
                continue
            this.waiting.remove(task)
            task.tried += 1
            seat.task, seat.round = task, this
            if self._time_limit_s is not None:
                seat.deadline = time.monotonic() + self._time_limit_s
            self._crew.give(place, task.job)

    def _may_take(self, place: int, task: _Task) -> bool:
        others = any(seat.is_open for number, seat in enumerate(self._seats) if number != place)
        return task.failed_at != place or not others

    def _take_reports(self) -> None:
        deadlines = [seat.deadline for seat in self._seats if seat.deadline is not None]
        timeout_s = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for place, report in self._crew.wait(timeout_s):
            seat = self._seats[place]
            match report:
                case Welcome():
                    seat.is_open, seat.openings = True, 0
                case Refused(error=error):
                    self._give_up(place, error)
                case Lost(how=how):
                    self._replace(place, how=how, failure=_LOST)
                case _:
                    self._note(place, report, again=isinstance(report, Failure) and report.kind in _AGAIN)

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for place, seat in enumerate(self._seats):
            if seat.deadline is not None and seat.deadline <= now:
                self._crew.stop(place)
                self._replace(place, how=f"a candidate took longer than {self._time_limit_s:g} s", failure=_LATE)

    def _replace(self, place: int, *, how: str, failure: Failure) -> None:
        """Start a seat's worker anew; what it was at is tried elsewhere, or has this `failure`."""
        seat = self._seats[place]
        seat.openings = 1 if seat.is_open else seat.openings + 1
        seat.is_open = False
        if seat.task is not None:
            self._note(place, failure, again=True)
            # The worker that failed is gone, so that its seat is as good as any.
        if seat.openings > _OPENINGS:
            self._give_up(place, RunError(f"no worker can be started any more ({how}). Add --resume to go on later."))
            return
        _log.warning("worker %d is lost (%s); another takes its place.", place + 1, how)
        self._crew.start(place)

    def _give_up(self, place: int, error: EvovlmError) -> None:
        seat = self._seats[place]
        seat.is_open, seat.is_given_up = False, True
        self._crew.stop(place)
        if all(each.is_given_up for each in self._seats):
            raise error
        _log.warning("worker %d cannot be started again, the others go on without it: %s", place + 1, error)

    def _note(self, place: int, outcome: Evaluation | Failure, *, again: bool) -> None:
        """Take a seat's outcome; one of a round that is not waited for any more goes nowhere."""
        seat = self._seats[place]
        task, this = seat.task, seat.round
        seat.task = seat.round = seat.deadline = None
        if task is None or this is None:
            return
        if again and task.tried == 1:
            task.failed_at = place if seat.is_open else None
            this.waiting.appendleft(task)
        else:
            this.found[task.number] = outcome
