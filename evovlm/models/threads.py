"""How many threads share a product: for small models one, because more only wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_HIDDEN_SIZE = 1024


def threads_per_product(*, hidden_size: int, device: torch.device) -> int:
    """Return how many of this process's threads share each product of a model.

    One on a CPU for a small model, whose answers then do not depend on the number of threads.
    """
    return 1 if device.type == "cpu" and hidden_size < SMALL_HIDDEN_SIZE else torch.get_num_threads()


@contextmanager
def threads_each(n: int) -> Iterator[None]:
    """Let `n` threads share each product that this thread computes in the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
