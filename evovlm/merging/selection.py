"""Which entries of a task vector are kept: every entry gets a number, and is kept while that is below a limit.

The numbers do not depend on the density, only the limit does; so a search computes them once, and the entries kept
at a lower density are always among those kept at a higher one.

**The random draw (DARE).** Entry i (row-major index) of a tensor draws 24 bits. With
`key = derive_seed("dare", recipe seed, source name, tensor name)`, entries 8 b .. 8 b + 7 share the four 64-bit words
of Philox-4x64-10 at counter b + 1 (where numpy's `Philox(key=key, counter=b)` starts): entry i takes the upper 24 bits
of the (i mod 8)-th 32-bit half, low halves first. u_i = draw / 2**24 is its uniform number, and it is kept iff
u_i < density. Where the stream is entered, and in which pieces it is drawn, makes no difference.

**The magnitude order (TIES).** Entry i's number is its rank by |d|, largest first, equal ones by index;
it is kept iff the rank is below k = max(1, int(density * n)) (Yadav et al. 2023, section 3, step 1).
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from evovlm.seeding import derive_seed

DRAW_BITS = 24
_ENTRIES_PER_BLOCK = 8
_PIECE = 1 << 20


def random_order(seed: int, source: str, tensor: str, *, size: int, start: int = 0) -> torch.Tensor:
    """Return the draws (whole numbers in [0, 2**24) as float32, shape (size,)) of entries start .. start + size - 1."""
    key = derive_seed("dare", seed, source, tensor)
    draws = np.empty(size, dtype=np.float32)
    done = 0
    while done < size:
        length = min(_PIECE, size - done)
        draws[done : done + length] = _draw(key, start + done, length)
        done += length
    return torch.from_numpy(draws)


def _draw(key: int, start: int, size: int) -> npt.NDArray[np.uint32]:
    first_block = start // _ENTRIES_PER_BLOCK
    skipped = start % _ENTRIES_PER_BLOCK
    words = -(-(skipped + size) // 2)
    stream = np.random.Philox(key=key, counter=first_block)
    halves = stream.random_raw(words).astype("<u8", copy=False).view("<u4")
    return halves[skipped : skipped + size] >> np.uint32(32 - DRAW_BITS)


def random_limit(density: float, size: int) -> int:  # noqa: ARG001 (as magnitude_limit)
    """Return the limit below which a draw keeps its entry: draw < limit iff draw / 2**24 < density."""
    return math.ceil(density * (1 << DRAW_BITS))


def magnitude_order(vector: torch.Tensor) -> torch.Tensor:
    """Return each entry's rank by magnitude, shape as `vector`, which is flat: 0 is the largest."""
    order = torch.sort(vector.abs(), descending=True, stable=True).indices
    ranks = torch.empty(len(vector), dtype=_whole_numbers_to(len(vector)))
    ranks[order] = torch.arange(len(vector), dtype=ranks.dtype)
    return ranks


def magnitude_limit(density: float, size: int) -> int:
    """Return how many entries of `size` a density above 0 keeps: max(1, int(density * size))."""
    return max(1, int(density * size))


def magnitude_split(vector: torch.Tensor, limit: int) -> torch.Tensor:
    """Return numbers that `limit` cuts where it cuts `magnitude_order`, found without a sort.

    An entry kept has number 0, one dropped has `limit`: good for this limit only.
    """
    magnitudes = vector.abs()
    # The limit-th largest is the (n - limit + 1)-th smallest.
    threshold = magnitudes.kthvalue(len(vector) - limit + 1).values
    dropped = magnitudes < threshold
    equal = torch.nonzero(magnitudes == threshold).flatten()
    n_surplus = len(vector) - int(dropped.sum()) - limit
    dropped[equal[len(equal) - n_surplus :]] = True
    return dropped.to(_whole_numbers_to(len(vector))).mul_(limit)


def _whole_numbers_to(size: int) -> torch.dtype:
    """Return the narrowest float dtype that holds every whole number up to `size` exactly."""
    return torch.float32 if size <= 1 << 24 else torch.float64
