"""A worker in a process of its own: opens what it is sent, does one job after another, and ends with its driver.

The messages are pickles between two processes of one program; nobody else has the ends of the pipe.
"""

import os
import pickle
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

from evovlm.errors import EvovlmError
from evovlm.evaluation.workers.jobs import Job, Opening, Place
from evovlm.evaluation.workers.supervisor import Refused, Welcome


def main() -> None:
    """Work for whoever holds the other end of the pipe whose file descriptor is the first argument."""
    connection = Connection(int(sys.argv[1]))
    messages: SimpleQueue[bytes] = SimpleQueue()
    # While the main thread is at work, another must see that the driver is gone.
    Thread(target=_listen, args=(connection, messages), daemon=True).start()
    opening: Opening
    place: Place
    opening, place = pickle.loads(messages.get())  # noqa: S301 - from our own driver
    try:
        workers = opening.open(place)
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
        # The driver is done, or killed: nobody waits for what is being worked out.
        os._exit(0)


if __name__ == "__main__":
    main()
