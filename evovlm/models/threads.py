"""How many threads share a product: for small models one, because more only wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SMALL_HIDDEN_SIZE = 1024


def is_small(*, hidden_size: int, device: torch.device) -> bool:
    """Return whether one thread computes each product of such a model, which then does not depend on their number."""
    return device.type == "cpu" and hidden_size < SMALL_HIDDEN_SIZE


@contextmanager
def threads_each(n: int) -> Iterator[None]:
    """Let `n` threads share each product that this thread computes in the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
