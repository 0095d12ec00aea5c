"""The Pareto set of several goals, and the point on it with the best trade-off."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def front(goals: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Return the indices of the points that no other point dominates, in ascending order.

    `goals` has a row for each point and a column for each goal, higher is better. A point dominates another if it is
    at least as good on all goals and better on one. Of equal points, all or none are returned.
    """
    points = np.array(goals, dtype=np.float64)
    if not len(points):
        return ()
    return tuple(index for index, point in enumerate(points) if not _dominated(point, points))


def knee(goals: Sequence[Sequence[float]]) -> int:
    """Return the index of the point of a front with the best trade-off: the nearest to the ideal point.

    The ideal point has the best value of each goal. The distance is Euclidean, with each goal scaled so that its range
    over the front is 1 (a goal in which all points are equal does not count). Of equals, the first is returned. Raises
    ValueError when `goals` is empty.
    """
    points = np.array(goals, dtype=np.float64)
    if not len(points):
        raise ValueError("a front has at least one point")
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return int(np.argmin((((high - points) / spread) ** 2).sum(axis=1)))


def _dominated(point: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> bool:
    return bool(np.any(np.all(points >= point, axis=1) & np.any(points > point, axis=1)))
