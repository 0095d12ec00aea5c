"""Rescaling by L1 norms: a source's kept entries are multiplied so that their magnitudes add up to the sum of all.

Two passes over a tensor serve all of its sources: one for the largest magnitudes, from which the units of the sums
follow, and one that decides which entries are kept, sums, and marks them. So the merge need not decide again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic import mark_kernels
from evovlm.merging.arithmetic.buffers import Scratch
from evovlm.merging.arithmetic.combination import Keep, KeepByRank, KeepDrawn, Marking
from evovlm.merging.arithmetic.task_vector import TaskVectors


class Rescaled(NamedTuple):
    """sum |d| / sum |d kept| of a source (1 when no entry is kept), and its rule with the kept entries marked."""

    ratio: float
    keep: Marking


class _Summed(NamedTuple):
    """A stretch's marks, uint8 (k, bytes), and sums of all and of the kept magnitudes, int64 (k, 2)."""

    start: int
    marks: npt.NDArray[np.uint8]
    sums: npt.NDArray[np.int64]

    @staticmethod
    def empty(k: int, start: int, size: int) -> "_Summed":
        marks = np.empty((k, mark_kernels.mark_bytes(size)), dtype=np.uint8)
        return _Summed(start=start, marks=marks, sums=np.zeros((k, 2), dtype=np.int64))


def rescaled(vectors: TaskVectors, keeps: Mapping[int, Keep | None]) -> Mapping[int, Rescaled]:
    """Return the ratio and the marked rule of each source, by its index, that keeps by draws or by draws and ranks.

    Raises BrokenCheckpoint for a number that is not finite, unless those are allowed.
    """
    drawn = {index: keep for index, keep in keeps.items() if isinstance(keep, KeepDrawn)}
    ranked = {index: keep for index, keep in keeps.items() if isinstance(keep, KeepByRank)}
    return {
        **(_rescaled(drawn, _sum_drawn(vectors, drawn)) if drawn else {}),
        **(_rescaled(ranked, _sum_ranked(vectors, ranked)) if ranked else {}),
    }


def _rescaled(keeps: Mapping[int, Marking], summed: Iterable[_Summed]) -> Mapping[int, Rescaled]:
    stretches = list(summed)
    found = {}
    for row, (index, keep) in enumerate(keeps.items()):
        # As whole numbers of Python, whose quotient is rounded once.
        total = sum(int(stretch.sums[row, 0]) for stretch in stretches)
        kept = sum(int(stretch.sums[row, 1]) for stretch in stretches)
        marks = {stretch.start: stretch.marks[row] for stretch in stretches}
        found[index] = Rescaled(ratio=total / kept if kept else 1.0, keep=replace(keep, marks=marks))
    return found


def _sum_drawn(vectors: TaskVectors, keeps: Mapping[int, KeepDrawn]) -> Iterator[_Summed]:
    units = vectors.units()[list(keeps)]
    numbers = np.array([(index, keep.limit) for index, keep in keeps.items()], dtype=np.int64)
    keys = np.array([keep.key for keep in keeps.values()], dtype=np.uint64)
    for stretch in vectors.stretches():
        found = _Summed.empty(len(keeps), stretch.start, stretch.size)
        with vectors.loaded(stretch, only=tuple(keeps), again=True) as (raws, raw_base):
            upper = vectors.upper_draws(stretch)
            mark_kernels.sum_drawn(raws, raw_base, upper, stretch.start, numbers, keys, units, found.marks, found.sums)
        yield found


def _sum_ranked(vectors: TaskVectors, keeps: Mapping[int, KeepByRank]) -> Iterator[_Summed]:
    units = vectors.units(whole_rows=True)
    for chunk in vectors.chunks(only=tuple(keeps), whole_rows=True):
        size = chunk.parts.shape[1]
        found = _Summed.empty(len(keeps), chunk.start, size)
        with Scratch(size, np.dtype(np.bool_)) as kept:
            for row, (index, keep) in enumerate(keeps.items()):
                keep.mark(chunk.parts[row], chunk.start, kept)
                found.sums[row] = mark_kernels.sum_kept(chunk.parts[row], kept, units[index], found.marks[row])
        yield found
