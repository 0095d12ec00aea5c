"""The Pareto set: who dominates whom, and where a front bends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.search.pareto import front, knee

Points = list[tuple[float, float, float]]
# Few values, so that equal coordinates and equal points are common.
coordinate = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
points = st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=20)


def dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(first, second, strict=True)) and first != second


@given(points=points)
def test_the_front_is_what_no_other_point_dominates(points: Points) -> None:
    expected = tuple(index for index, each in enumerate(points) if not any(dominates(other, each) for other in points))
    assert front(points) == expected
    assert expected


@given(points=points)
def test_everybody_off_the_front_is_dominated_by_somebody_on_it(points: Points) -> None:
    chosen = front(points)
    for index in set(range(len(points))) - set(chosen):
        assert any(dominates(points[other], points[index]) for other in chosen)
    assert front([points[index] for index in chosen]) == tuple(range(len(chosen)))


@given(points=points, order=st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(points: Points, order: object) -> None:
    shuffled = list(points)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(points[index] for index in front(points)) == sorted(shuffled[index] for index in front(shuffled))


def test_of_one_goal_the_front_is_the_best() -> None:
    assert front([(0.1,), (0.5,), (0.5,), (0.2,)]) == (1, 2)
    assert front([]) == ()


def test_the_knee_gives_up_little_of_each_goal() -> None:
    assert knee([(0.0, 1.0), (0.8, 0.9), (1.0, 0.0)]) == 1
    assert knee([(0.3, 0.3)]) == 0
    assert knee([(0.5, 0.2), (0.5, 0.4)]) == 1


def test_the_knee_does_not_depend_on_the_goals_units() -> None:
    points = [(0.0, 1.0), (0.7, 0.6), (1.0, 0.0)]
    assert knee(points) == knee([(1000 * a, b / 10 + 3) for a, b in points]) == 1
    with pytest.raises(ValueError, match="at least one"):
        knee([])
