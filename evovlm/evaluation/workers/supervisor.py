"""Keeps several workers busy, replaces lost ones, and returns outcomes in the order of the jobs.

A `WorkerPool` starts and stops the workers (processes of this machine, actors of a Ray cluster). This module decides
which worker gets which job, what is tried again, and when a candidate has failed.
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
from evovlm.recipes.candidate import Failure, Outcome

_OPENINGS = 3
"""How often in a row a slot's worker may be lost while it opens, before the slot is given up."""

# Reasons contain nothing that differs between machines or workers, so that journals are the same.
_LOST = Failure(kind="worker_lost", reason="two workers in turn ended while they scored it")
_LATE = Failure(kind="timed_out", reason="it took longer than the time limit, on two workers in turn")
_AGAIN = frozenset({"out_of_memory"})
"""Kinds of failure reported by a worker that may not happen on another one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a worker reports once it is open; see `Workers`."""

    sizes: Mapping[str, int]
    blocks: Mapping[str, int]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, workers: Workers) -> "Welcome":
        """Return the report of these workers."""
        return cls(sizes=dict(workers.sizes), blocks=dict(workers.blocks), warnings=workers.warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A worker cannot open its models, for a reason that the user can fix."""

    error: EvovlmError


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker has ended; `how` is for people."""

    how: str


Report: TypeAlias = Welcome | Refused | Lost | Outcome


class WorkerPool(Protocol):
    """Slots, numbered from 0, with one worker each, which does one job at a time."""

    @property
    def n_slots(self) -> int:
        """The number of workers there can be."""
        ...

    def start(self, slot: int) -> None:
        """Start to open a worker in an empty slot; Welcome, Refused or Lost is reported later."""
        ...

    def give(self, slot: int, job: Job) -> None:
        """Give an open worker a job; its outcome or Lost is reported later."""
        ...

    def wait(self, timeout_s: float | None) -> Sequence[tuple[int, Report]]:
        """Return reports with their slots as soon as there are any; empty after the timeout (None: no timeout)."""
        ...

    def stop(self, slot: int) -> None:
        """End a slot's worker at once, whatever it does; nothing more is reported about it."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class _QueuedJob:
    """A job of a round, how often it was tried, and the slot that must not try it again."""

    number: int
    job: Job
    tried: int = 0
    failed_at: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Round:
    """The jobs of one call: those that wait, and the outcomes so far, by the jobs' numbers."""

    waiting: deque[_QueuedJob]
    found: dict[int, Outcome] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    is_open: bool = False
    is_given_up: bool = False
    openings: int = 0
    queued: _QueuedJob | None = None
    round: _Round | None = None
    deadline: float | None = None


class Supervisor:
    """Workers of a pool; create it with `open`.

    A job whose worker is lost, late or out of memory is tried once more on another worker, and is then a Failure.
    """

    def __init__(self, pool: WorkerPool, *, welcome: Welcome, time_limit_s: float | None) -> None:
        self._pool = pool
        self._welcome = welcome
        self._time_limit_s = time_limit_s
        self._slots = [_Slot(is_open=True) for _ in range(pool.n_slots)]

    @classmethod
    def open(cls, pool: WorkerPool, *, time_limit_s: float | None = None) -> "Supervisor":
        """Start every worker and wait until all are open; `time_limit_s` is the limit for each job.

        Raises the error of the first worker that cannot open, RunError when one ends meanwhile; all are ended then.
        """
        welcomes: dict[int, Welcome] = {}
        with ExitStack() as if_refused:
            if_refused.callback(pool.close)
            for slot in range(pool.n_slots):
                pool.start(slot)
            while len(welcomes) < pool.n_slots:
                for slot, report in pool.wait(None):
                    if isinstance(report, Refused):
                        raise report.error
                    if not isinstance(report, Welcome):
                        how = report.how if isinstance(report, Lost) else "its answer was unexpected"
                        raise RunError(
                            f"worker {slot + 1} of {pool.n_slots} ended while it opened the models ({how}).\n"
                            "    See its messages above. Without any, memory may have run out: use fewer workers."
                        )
                    welcomes[slot] = report
            if_refused.pop_all()
        return cls(pool, welcome=welcomes[0], time_limit_s=time_limit_s)

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of samples of each task, by name, in the order of the tasks."""
        return self._welcome.sizes

    @property
    def blocks(self) -> Mapping[str, int]:
        """The number of decoder blocks of each source, by name."""
        return self._welcome.blocks

    @property
    def warnings(self) -> tuple[str, ...]:
        """What can be merged but may harm the result."""
        return self._welcome.warnings

    def outcomes(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Yield the outcome of each job in the order of the jobs, as soon as those before it are done.

        Raises the error of opening, or RunError, when no worker is left and none can be started.
        """
        this = _Round(waiting=deque(_QueuedJob(number=number, job=job) for number, job in enumerate(jobs)))
        for number in range(len(jobs)):
            self._hand_out(this)
            while number not in this.found:
                self._take_reports()
                self._end_late_ones()
                self._hand_out(this)
            yield this.found.pop(number)

    def close(self) -> None:
        """End all workers at once."""
        self._pool.close()

    def _hand_out(self, this: _Round) -> None:
        for number, slot in enumerate(self._slots):
            if not slot.is_open or slot.queued is not None:
                continue
            queued = next((queued for queued in this.waiting if self._may_take(number, queued)), None)
            if queued is None:
                continue
            this.waiting.remove(queued)
            queued.tried += 1
            slot.queued, slot.round = queued, this
            if self._time_limit_s is not None:
                slot.deadline = time.monotonic() + self._time_limit_s
            self._pool.give(number, queued.job)

    def _may_take(self, number: int, queued: _QueuedJob) -> bool:
        others = any(slot.is_open for other, slot in enumerate(self._slots) if other != number)
        return queued.failed_at != number or not others

    def _take_reports(self) -> None:
        deadlines = [slot.deadline for slot in self._slots if slot.deadline is not None]
        timeout_s = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for number, report in self._pool.wait(timeout_s):
            slot = self._slots[number]
            match report:
                case Welcome():
                    slot.is_open, slot.openings = True, 0
                case Refused(error=error):
                    self._give_up(number, error)
                case Lost(how=how):
                    self._replace(number, how=how, failure=_LOST)
                case _:
                    failed = report.failure
                    self._note(number, report, again=failed is not None and failed.kind in _AGAIN)

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for number, slot in enumerate(self._slots):
            if slot.deadline is not None and slot.deadline <= now:
                self._pool.stop(number)
                self._replace(number, how=f"a candidate took longer than {self._time_limit_s:g} s", failure=_LATE)

    def _replace(self, number: int, *, how: str, failure: Failure) -> None:
        """Start a slot's worker again; its current job is tried on another worker, or gets this `failure`."""
        slot = self._slots[number]
        slot.openings = 1 if slot.is_open else slot.openings + 1
        slot.is_open = False
        if slot.queued is not None:
            self._note(number, failure, again=True)
            # The failed worker has ended, so its slot may get the job again.
        if slot.openings > _OPENINGS:
            self._give_up(
                number, RunError(f"no worker can be started any more ({how}). Add --resume to continue later.")
            )
            return
        _log.warning("worker %d is lost (%s); a new one replaces it.", number + 1, how)
        self._pool.start(number)

    def _give_up(self, number: int, error: EvovlmError) -> None:
        slot = self._slots[number]
        slot.is_open, slot.is_given_up = False, True
        self._pool.stop(number)
        if all(each.is_given_up for each in self._slots):
            raise error
        _log.warning("worker %d cannot be started again; the others continue without it: %s", number + 1, error)

    def _note(self, number: int, outcome: Outcome, *, again: bool) -> None:
        """Take a slot's outcome; that of a round which the caller has left is dropped."""
        slot = self._slots[number]
        queued, this = slot.queued, slot.round
        slot.queued = slot.round = slot.deadline = None
        if queued is None or this is None:
            return
        if again and queued.tried == 1:
            queued.failed_at = number if slot.is_open else None
            this.waiting.appendleft(queued)
        else:
            this.found[queued.number] = outcome
