"""How many threads share a product, so that an answer depends on their number as little as may be."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Products of small models are too small to share between threads: there each thread decodes prompts of its own.
_SMALL_HIDDEN_SIZE = 1024


def is_small(*, hidden_size: int, device: torch.device) -> bool:
    """Whether every product of such a model is one thread's; it then has the same bits for any number of threads."""
    return device.type == "cpu" and hidden_size < _SMALL_HIDDEN_SIZE


@contextmanager
def threads_each(n: int) -> Iterator[None]:
    """Let `n` threads share each product of this thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
