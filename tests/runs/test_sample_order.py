"""The order of a race's samples: each once, drawn as it says, and the telling ones first where that is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.recipes.candidate import TaskScore
from evovlm.runs.sample_order import ORDERS, Ordering


def scored(values: list[float], rows: tuple[int, ...] | None = None) -> TaskScore:
    mean = float(np.mean(values))
    return TaskScore(score=mean, ungated=mean, japanese=1.0, per_sample=tuple(values), n=len(values), rows=rows)


def ordering(size: int, past: list[TaskScore], *, generation: int = 0, seed: int = 0) -> Ordering:
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


def test_rows_on_which_candidates_disagree_come_first_and_no_row_never() -> None:
    # On rows 0 to 9 half of the past was right, on all others everybody was.
    past = [scored([float(n % 2)] * 10 + [1.0] * 90) for n in range(30)]
    firsts = [ORDERS["informative"](ordering(100, past, generation=generation))[:10] for generation in range(200)]
    share = np.mean([row < 10 for first in firsts for row in first])
    assert 0.4 < share < 1.0


def test_the_candidates_of_long_ago_do_not_say_what_is_telling_now() -> None:
    old = [scored([float(n % 2)] * 10 + [1.0] * 30) for n in range(30)]
    new = [scored([1.0] * 30 + [float(n % 2)] * 10) for n in range(30)]
    firsts = [ORDERS["informative"](ordering(40, [*old, *new], generation=g))[:8] for g in range(100)]
    rows = [row for first in firsts for row in first]
    assert np.mean([row >= 30 for row in rows]) > 2 * np.mean([row < 10 for row in rows])
