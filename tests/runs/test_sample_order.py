"""The order of a race's samples: each once, drawn as it says, and the telling ones first where that is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.recipes.candidate import TaskScore
from evovlm.runs.samples import ORDERS, Ordering, Past


def scored(
    values: list[float], rows: tuple[int, ...] | None = None, *, generation: int = 0, fitness: float = 0.5
) -> Past:
    mean = float(np.mean(values))
    score = TaskScore(score=mean, ungated=mean, japanese=1.0, per_sample=tuple(values), n=len(values), rows=rows)
    return Past(generation=generation, fitness=fitness, score=score)


def ordering(size: int, past: list[Past], *, generation: int = 0, seed: int = 0) -> Ordering:
    return Ordering(size=size, task="t", seed=seed, generation=generation, past=past)


@pytest.mark.parametrize("name", ORDERS)
@given(size=st.integers(1, 50), seed=st.integers(0, 100), scores=st.lists(st.sampled_from([0.0, 0.4, 1.0]), max_size=4))
def test_every_order_has_every_row_once(name: str, size: int, seed: int, scores: list[float]) -> None:
    past = [scored([score], (size - 1,)) for score in scores]
    found = ORDERS[name](ordering(size, past, seed=seed))
    assert sorted(found) == list(range(size))
    assert found == ORDERS[name](ordering(size, past, seed=seed))


@pytest.mark.parametrize(("name", "differ"), [("shuffled", True), ("informative", True), ("fixed", False)])
def test_only_the_fixed_order_is_that_of_every_generation(name: str, differ: bool) -> None:
    first, second = (ORDERS[name](ordering(40, [], generation=generation)) for generation in (0, 1))
    assert (first != second) is differ
    assert first != ORDERS[name](ordering(40, [], seed=1))


def first_rows(past: list[Past], *, count: int) -> list[int]:
    return ORDERS["informative"](ordering(100, past, generation=7))[:count]


def test_of_ten_rows_nine_are_unsolved_and_one_is_another() -> None:
    past = [scored([0.0] * 40 + [1.0] * 60)]
    for count in (10, 20, 40):
        assert sum(row < 40 for row in first_rows(past, count=count)) == pytest.approx(0.9 * count, abs=1)


def test_a_sample_is_solved_if_the_better_half_solves_it() -> None:
    better = [scored([1.0] * 50 + [0.0] * 50, fitness=0.9) for _ in range(2)]
    worse = [scored([0.0] * 100, fitness=0.1) for _ in range(2)]
    assert sum(row >= 50 for row in first_rows([*worse, *better], count=20)) >= 17


def test_the_last_generation_that_saw_a_row_decides_and_unseen_rows_are_unsolved() -> None:
    # Rows 0 to 19 were lost again, 20 to 39 were solved later, 40 to 99 nobody saw but for the first generation.
    first = scored([1.0] * 20 + [0.0] * 20 + [1.0] * 40, tuple(range(80)), generation=0)
    second = scored([0.0] * 20 + [1.0] * 20, tuple(range(40)), generation=1)
    found = first_rows([first, second], count=40)
    assert sum(row < 20 or row >= 80 for row in found) >= 35


def test_where_all_is_solved_or_nothing_the_order_is_the_shuffled_one() -> None:
    for value in (0.0, 1.0):
        own = ordering(30, [scored([value] * 30)], generation=3)
        assert ORDERS["informative"](own) == ORDERS["shuffled"](own)
