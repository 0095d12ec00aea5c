"""What holds for all tests."""

import atexit
import gc

from hypothesis import settings

# A busy machine is not a fault of the code.
settings.register_profile("evovlm", deadline=None)
settings.load_profile("evovlm")

# As the command does. With Python's thresholds (700, 10, 10), a seventh of the time of the tests goes into looking for
# garbage among the objects of torch and transformers.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish() -> None:
    """Take the imported modules and the collected tests, which stay, out of every later search for garbage."""
    gc.freeze()
    # At the end they are garbage like all others: some libraries report what is left as leaks.
    atexit.register(gc.unfreeze)
