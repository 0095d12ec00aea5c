"""A worker in its own process: opens what it is sent, does one job after another, and ends with its driver.

The messages are pickles between two processes of one program; no other process has the ends of the pipe.
"""

import os
import pickle
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

from evovlm.errors import EvovlmError
from evovlm.evaluation.workers.jobs import Job, Opening, WorkerSettings
from evovlm.evaluation.workers.supervisor import Refused, Welcome


def main() -> None:
    """Work for the process at the other end of the pipe, whose file descriptor is the first argument."""
    connection = Connection(int(sys.argv[1]))
    messages: SimpleQueue[bytes] = SimpleQueue()
    # While the main thread works, another thread must notice when the driver has ended.
    Thread(target=_listen, args=(connection, messages), daemon=True).start()
    opening: Opening
    settings: WorkerSettings
    opening, settings = pickle.loads(messages.get())  # noqa: S301 - from our own driver
    try:
        workers = opening.open(settings)
    except EvovlmError as error:
        connection.send(Refused(error=error))
        return
    connection.send(Welcome.of(workers))
    while True:
        job: Job = pickle.loads(messages.get())  # noqa: S301 - from our own driver
        connection.send(next(iter(workers.outcomes([job]))))


def _listen(connection: Connection, messages: "SimpleQueue[bytes]") -> None:
    try:
        while True:
            messages.put(connection.recv_bytes())
    except (EOFError, OSError):
        # The driver has ended or was killed: nobody waits for the current result.
        os._exit(0)


if __name__ == "__main__":
    main()
