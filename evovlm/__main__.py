"""The `evovlm` command, also as `python -m evovlm`."""

import atexit
import gc
import os
import signal
import sys
from contextlib import suppress
from types import FrameType

# Python looks for modules in the current folder first, which may be anybody's.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH109, PTH120
    del sys.path[0]


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback even while its first modules are imported."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    # Imports make very many objects and hardly any garbage. With Python's thresholds (700, 10, 10), looking for garbage
    # takes a second of the six of a short scoring.
    gc.set_threshold(200_000, 10, 10)
    # What is registered first runs last, when all other work at the end is done.
    codes: list[int] = []
    atexit.register(_leave, codes)
    from evovlm.cli.app import main as run

    signal.signal(signal.SIGINT, before)
    try:
        run()
    except SystemExit as ended:
        if not isinstance(ended.code, str):
            codes.append(ended.code or 0)
        raise


def _leave(codes: list[int]) -> None:
    """End the process at once: after torch is loaded, Python takes 1.5 s of CPU time to free each object by itself."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if codes == [0]:
            with suppress(OSError):
                os.write(2, f"error: the output cannot be written ({error.strerror}).\n".encode())
            codes[:] = [2]
    if codes:
        os._exit(codes[0])


def _stop(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"\nstopped\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
