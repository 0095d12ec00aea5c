"""Choose which entries of a task vector are kept: by a draw, by magnitude, or by a draw that favours large magnitudes.

Entries that are kept at a lower density are also kept at a higher one: neither the draw nor the order depends on the
density.

**The draw (DARE, DELLA).** Entry i (row-major index in the result) of a tensor draws 24 bits. With
`key = derive_seed("dare", recipe seed, source name, tensor name)`, entries 8 b .. 8 b + 7 share the four 64-bit words
of Philox-4x64-10 at counter b + 1 (where numpy's `Philox(key=key, counter=b)` starts): entry i takes the upper 24 bits
of the (i mod 8)-th 32-bit half, low halves first. u_i = draw / 2**24 is its uniform number, and it is kept iff
u_i < density. The draws do not depend on where the stream is entered or in which chunks it is drawn.

**The magnitude order (TIES, breadcrumbs, SCE).** Entries are ranked by |d|, largest first, equal ones by index.
The k largest are found without sorting all entries: a histogram of the magnitudes' upper 16 bits, counted once, shows
in which bin the k-th largest lies, and only the entries of that bin are collected and sorted.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic import kernels
from evovlm.merging.arithmetic.buffers import MemoryBudget
from evovlm.seeding import derive_seed

DRAW_BITS = 24
ALL = 1 << DRAW_BITS
"""The limit that every draw is below."""

MAGNITUDE_BINS = 1 << 15
"""The number of values of the upper 16 bits of a magnitude."""
_ENTRIES_PER_BLOCK = 8


def draw_key(seed: int, source: str, tensor: str) -> int:
    """Return the key of the draws for one tensor of one source."""
    return derive_seed("dare", seed, source, tensor)


def draws(key: int, *, start: int, size: int) -> npt.NDArray[np.uint32]:
    """Return the draws (in [0, 2**24), shape (size,)) of entries start .. start + size - 1."""
    return draw_halves(key, start=start, size=size) >> np.uint32(32 - DRAW_BITS)


def draw_halves(key: int, *, start: int, size: int) -> npt.NDArray[np.uint32]:
    """Return the 32-bit numbers whose upper 24 bits are the draws."""
    words = np.empty(size // 2 + _ENTRIES_PER_BLOCK, dtype="<u8")
    halves: npt.NDArray[np.uint32] = kernels.draw_halves(np.uint64(key), start, size, words)
    return halves


def draw_limit(density: float) -> int:
    """Return the limit below which a draw keeps its entry: draw < limit iff draw / 2**24 < density."""
    return math.ceil(density * ALL)


def kept_count(density: float, size: int) -> int:
    """Return how many of `size` entries a density above 0 keeps: max(1, int(density * size)) (Yadav et al. 2023)."""
    return max(1, int(density * size))


class Cut(NamedTuple):
    """The last of the k largest entries: the bits of its magnitude (float32 without sign), and its index.

    An entry is among the k largest iff its bits are higher, or equal and its index is not above `last`.
    """

    bits: int
    last: int


NOTHING = Cut(bits=1 << 31, last=-1)
"""The cut of the 0 largest entries."""


Marks = Mapping[int, npt.NDArray[np.uint8]]
"""Which entries of a tensor are kept, one bit each (see `mark_kernels.py`): for each stretch, by its first entry."""


class Entries(NamedTuple):
    """Some entries (float32, valid until the next ones are read) and the index of the first."""

    start: int
    values: npt.NDArray[np.float32]


class Magnitudes(Protocol):
    """The magnitudes of a tensor's entries, read in a pass over all of them, wherever they are."""

    def count(self) -> npt.NDArray[np.int64]:
        """Return how many entries have each upper 16 bits (float32 without sign), shape (32768,)."""
        ...

    def collect(self, upper: int, size: int) -> npt.NDArray[np.uint64]:
        """Return the keys of the `size` entries with these upper 16 bits, in any order, in an array of their own.

        Bits 40 and up are the complement of the magnitude's lower 16 bits, those below are the index, so that larger
        magnitudes come first, and equal ones by index.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MagnitudesOnCpu:
    """Magnitudes of entries that `stretches` yields again whenever it is called, in any order."""

    stretches: Callable[[], Iterable[Entries]]

    def count(self) -> npt.NDArray[np.int64]:
        """See Magnitudes."""
        counts = np.zeros(MAGNITUDE_BINS, dtype=np.int64)
        for stretch in self.stretches():
            kernels.count_magnitudes(stretch.values, counts)
        return counts

    def collect(self, upper: int, size: int) -> npt.NDArray[np.uint64]:
        """See Magnitudes."""
        keys = np.empty(size, dtype=np.uint64)
        filled = 0
        for stretch in self.stretches():
            filled = kernels.collect_magnitudes(stretch.values, stretch.start, upper, keys, filled)
        return keys


@dataclass(slots=True, eq=False)
class MagnitudeOrder:
    """The order of a tensor's entries by magnitude, computed only around the cuts that are asked for.

    Results are cached, so that cuts of many densities share them: some kilobytes for the histogram and, within the
    memory `budget` (None: without limit), 8 bytes per entry of each bin that a cut fell into.
    """

    magnitudes: Magnitudes
    budget: MemoryBudget | None = None
    _bins: npt.NDArray[np.int64] | None = None
    _counts: npt.NDArray[np.int64] | None = None
    _sorted: dict[int, npt.NDArray[np.uint64]] = field(default_factory=dict)

    def cut(self, count: int) -> Cut:
        """Return the cut after the `count` largest entries. Raises ValueError when there are fewer."""
        if count <= 0:
            return NOTHING
        bins, counts = self._histogram()
        # From the largest magnitude down.
        up_to = np.cumsum(counts[::-1])
        place = int(np.searchsorted(up_to, count))
        if place == len(bins):
            raise ValueError(f"a cut after {count} of {int(up_to[-1]) if len(up_to) else 0} entries")
        chosen = len(bins) - 1 - place
        before = int(up_to[place]) - int(counts[chosen])
        upper = int(bins[chosen])
        keys, rank = self._bin(upper, int(counts[chosen])), count - before - 1
        if upper not in self._sorted:
            keys.partition(rank)
        key = int(keys[rank])
        lower = 0xFFFF - (key >> 40)
        return Cut(bits=(upper << 16) | lower, last=key & ((1 << 40) - 1))

    def count_nonzero(self) -> int:
        """Return how many entries are not 0."""
        bins, counts = self._histogram()
        n_small = int(counts[0]) if len(bins) and bins[0] == 0 else 0
        if not n_small:
            return int(counts.sum())
        # This bin holds zeros, and numbers below 2**-126 with the same upper bits.
        zeros = int((self._bin(0, n_small) >> np.uint64(40) == 0xFFFF).sum())
        return int(counts.sum()) - zeros

    def _histogram(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if self._bins is None or self._counts is None:
            counts = self.magnitudes.count()
            self._bins = np.flatnonzero(counts)
            self._counts = counts[self._bins]
        return self._bins, self._counts

    def _bin(self, upper: int, size: int) -> npt.NDArray[np.uint64]:
        """Return the keys of a bin: sorted if they are cached, else in any order."""
        keys = self._sorted.get(upper)
        if keys is None:
            keys = self.magnitudes.collect(upper, size)
            if self.budget is None or self.budget.take(keys.nbytes):
                keys.sort()
                self._sorted[upper] = keys
        return keys
