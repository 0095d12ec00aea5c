"""Workers as processes of this machine, one resident model each.

Processes, not threads: one that hangs or is killed can be replaced, and none waits for another's interpreter. All read
the models' files through the machine's page cache, which fetches them from the disk once. Each is a fresh interpreter,
as multiprocessing's "spawn" starts them, but without running the caller's main module again, and with an environment of
its own: the number of OpenMP threads is read once, when torch is loaded.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from evovlm.evaluation.workers.jobs import Job, Opening, Place
from evovlm.evaluation.workers.supervisor import Lost, Report

_STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Process:
    popen: subprocess.Popen[bytes]
    connection: Connection

    def kill(self) -> None:
        self.popen.kill()

    def reap(self) -> int:
        """Wait for its end, let go of what belongs to it, and return its exit code."""
        code = self.popen.wait()
        self.connection.close()
        return code


class LocalProcesses:
    """A crew of processes, one at each of the `places`."""

    def __init__(self, opening: Opening, *, places: Sequence[Place]) -> None:
        self._opening = opening
        self._places = tuple(places)
        self._processes: dict[int, _Process] = {}

    @property
    def n_seats(self) -> int:
        """How many workers there can be."""
        return len(self._places)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes that there are."""
        return tuple(process.popen.pid for process in self._processes.values())

    def start(self, seat: int) -> None:
        """See Crew."""
        place = self._places[seat]
        ours, theirs = Pipe()
        # In a session of its own, so that Ctrl-C is the driver's to answer; stdout is for the command's result.
        popen = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-P", "-m", "evovlm.evaluation.workers.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=_environment(place),
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            start_new_session=True,
        )
        theirs.close()
        self._processes[seat] = _Process(popen=popen, connection=ours)
        self._send(seat, (self._opening, place))

    def give(self, seat: int, job: Job) -> None:
        """See Crew."""
        self._send(seat, job)

    def wait(self, timeout_s: float | None) -> Sequence[tuple[int, Report]]:
        """See Crew."""
        seats = {process.connection: seat for seat, process in self._processes.items()}
        ready = wait(list(seats), timeout_s)
        return [(seats[each], self._report(seats[each])) for each in seats if each in ready]

    def stop(self, seat: int) -> None:
        """See Crew."""
        process = self._processes.pop(seat, None)
        if process is not None:
            process.kill()
            process.reap()

    def close(self) -> None:
        """See Crew."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.reap()
        self._processes.clear()

    def _send(self, seat: int, message: object) -> None:
        try:
            self._processes[seat].connection.send_bytes(pickle.dumps(message))
        except (BrokenPipeError, ConnectionResetError):
            # It has ended; `wait` will tell.
            return

    def _report(self, seat: int) -> Report:
        try:
            report: Report = self._processes[seat].connection.recv()
        except (EOFError, ConnectionResetError):
            return Lost(how=_ending(self._processes.pop(seat).reap()))
        return report


def _environment(place: Place) -> dict[str, str]:
    # What can be imported here can be there.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if place.threads is not None:
        environment["OMP_NUM_THREADS"] = str(place.threads)
    return environment


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
