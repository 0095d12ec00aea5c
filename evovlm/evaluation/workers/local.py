"""Workers as processes of this machine, one resident model each.

They are processes, not threads: one that hangs or is killed can be replaced, and none waits for another's interpreter.
All read the models' files through the machine's page cache, which reads them from the disk once. Each is a fresh
interpreter, like those of multiprocessing's "spawn", but it does not run the caller's main module again, and it has its
own environment: the number of OpenMP threads is read once, when torch is loaded.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from evovlm.evaluation.engines.table import BUILTIN
from evovlm.evaluation.workers.jobs import Job, Opening, WorkerSettings
from evovlm.evaluation.workers.supervisor import Lost, Report

_STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Process:
    popen: subprocess.Popen[bytes]
    connection: Connection

    def kill(self) -> None:
        self.popen.kill()

    def reap(self) -> int:
        """Wait for its end, close its connection, and return its exit code."""
        code = self.popen.wait()
        self.connection.close()
        return code


class LocalProcesses:
    """A pool of processes, one for each of the `settings`."""

    def __init__(self, opening: Opening, *, settings: Sequence[WorkerSettings]) -> None:
        self._opening = opening
        self._settings = tuple(settings)
        self._processes: dict[int, _Process] = {}

    @property
    def n_slots(self) -> int:
        """The number of workers there can be."""
        return len(self._settings)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The ids of the running processes."""
        return tuple(process.popen.pid for process in self._processes.values())

    def start(self, slot: int) -> None:
        """See WorkerPool."""
        settings = self._settings[slot]
        ours, theirs = Pipe()
        # In its own session, so that only the driver handles Ctrl-C; stdout is for the command's result.
        popen = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-P", "-m", "evovlm.evaluation.workers.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            start_new_session=True,
        )
        theirs.close()
        self._processes[slot] = _Process(popen=popen, connection=ours)
        self._send(slot, (self._opening, replace(settings, device=_device_inside(settings))))

    def give(self, slot: int, job: Job) -> None:
        """See WorkerPool."""
        self._send(slot, job)

    def wait(self, timeout_s: float | None) -> Sequence[tuple[int, Report]]:
        """See WorkerPool."""
        slots = {process.connection: slot for slot, process in self._processes.items()}
        ready = wait(list(slots), timeout_s)
        return [(slots[each], self._report(slots[each])) for each in slots if each in ready]

    def stop(self, slot: int) -> None:
        """See WorkerPool."""
        process = self._processes.pop(slot, None)
        if process is not None:
            process.kill()
            process.reap()

    def close(self) -> None:
        """See WorkerPool."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.reap()
        self._processes.clear()

    def _send(self, slot: int, message: object) -> None:
        try:
            self._processes[slot].connection.send_bytes(pickle.dumps(message))
        except (BrokenPipeError, ConnectionResetError):
            # It has ended, which `wait` will report.
            return

    def _report(self, slot: int) -> Report:
        try:
            report: Report = self._processes[slot].connection.recv()
        except (EOFError, ConnectionResetError):
            return Lost(how=_ending(self._processes.pop(slot).reap()))
        return report


def _environment(settings: WorkerSettings) -> dict[str, str]:
    # What can be imported here can be imported there.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if settings.threads is not None:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    if _device_inside(settings) != settings.device:
        first = int(settings.device.partition(":")[2])
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [name.strip() for name in visible.split(",")] if visible else None
        numbers = range(first, first + settings.engine.tensor_parallel)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[each] if names else str(each) for each in numbers)
    return environment


def _device_inside(settings: WorkerSettings) -> str:
    """Return what the worker calls its device: other engines take the first GPUs that they see."""
    numbered = settings.device.startswith("cuda:") and settings.engine.name != BUILTIN
    return "cuda" if numbered else settings.device


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
