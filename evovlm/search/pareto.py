"""The Pareto set of several goals: who is not beaten by anybody on all of them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def front(goals: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Return the indices of the points that no other dominates, in ascending order.

    `goals` has a row for each point and a column for each goal, higher is better; one point dominates another that it
    is nowhere below and somewhere above. Of equal points, all or none are returned.
    """
    points = np.array(goals, dtype=np.float64)
    if not len(points):
        return ()
    return tuple(index for index, point in enumerate(points) if not _dominated(point, points))


def knee(goals: Sequence[Sequence[float]]) -> int:
    """Return which point of a front trades best: the nearest to the best of every goal, each scaled to the front.

    That is the least Euclidean distance to the ideal point, with every goal's range over the front taken as 1 (a goal
    in which all are equal does not count). The first of equals. Raises ValueError when there is no point.
    """
    points = np.array(goals, dtype=np.float64)
    if not len(points):
        raise ValueError("a front has at least one point")
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return int(np.argmin((((high - points) / spread) ** 2).sum(axis=1)))


def _dominated(point: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> bool:
    return bool(np.any(np.all(points >= point, axis=1) & np.any(points > point, axis=1)))
