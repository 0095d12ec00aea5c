"""Racing: who stops, with what confidence, and how stopped candidates rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.search.racing import Table, abilities, confidently_ahead, looks, still_racing, to_the_leaders


def table(
    scores: list[list[float]] | np.ndarray, tasks: list[int] | None = None, slopes: tuple[float, ...] = (1.0,)
) -> Table:
    values = np.array(scores, dtype=np.float64)
    own = np.zeros(values.shape[1], dtype=np.int64) if tasks is None else np.array(tasks)
    return Table(scores=values, tasks=own, slopes=np.array(slopes))


@pytest.mark.parametrize("n_samples", [10, 20, 80])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_of_two_equals_one_is_taken_for_the_better_hardly_more_often_than_the_level_says(
    n_samples: int, share: float
) -> None:
    draws = np.random.default_rng(n_samples)
    wrong = [
        confidently_ahead(table((draws.random((2, n_samples)) < share).astype(np.float64)), level=0.05)[0, 1]
        for _ in range(2000)
    ]
    # A fourth more, as few 0s and 1s come in steps, and two standard errors of the share of 2000.
    assert np.mean(wrong) <= 1.25 * 0.05 + 2 * np.sqrt(0.05 * 0.95 / 2000)


def test_scores_that_are_not_shares_keep_the_level_too() -> None:
    draws = np.random.default_rng(5)
    wrong = [confidently_ahead(table(draws.beta(0.4, 0.8, (2, 20))), level=0.05)[0, 1] for _ in range(2000)]
    assert np.mean(wrong) <= 0.06


def test_a_clear_difference_is_seen_and_only_in_one_direction() -> None:
    ahead = confidently_ahead(table([[1.0] * 10, [0.0] * 10]), level=0.05)
    assert ahead.tolist() == [[False, True], [False, False]]


def test_a_few_samples_that_all_agree_prove_nothing() -> None:
    assert not confidently_ahead(table([[1.0, 1.0], [0.0, 0.0]]), level=0.05).any()
    assert not confidently_ahead(table([[1.0] * 50, [1.0] * 50]), level=0.05).any()


def test_candidates_are_compared_on_the_samples_that_both_saw() -> None:
    # The first saw only hard samples; on those the second, which also saw easy ones, is not better.
    hard, easy = [0.0] * 20, [1.0] * 20
    assert not confidently_ahead(table([hard + [np.nan] * 20, hard + easy]), level=0.05).any()


def test_a_task_without_weight_decides_nothing() -> None:
    scores = [[1.0] * 20 + [0.0] * 20, [0.0] * 20 + [1.0] * 20]
    tasks = [0] * 20 + [1] * 20
    assert confidently_ahead(table(scores, tasks, (1.0, 0.0)), level=0.05)[0, 1]
    assert confidently_ahead(table(scores, tasks, (0.0, 1.0)), level=0.05)[1, 0]
    assert not confidently_ahead(table(scores, tasks, (0.5, 0.5)), level=0.05).any()


def test_one_confidently_behind_the_better_half_stops_and_equals_go_on() -> None:
    values = np.array([[1.0] * 20, [1.0] * 20, [1.0] * 20, [0.0] * 20])
    going = still_racing(confidently_ahead(table(values), level=0.01), np.ones(4, dtype=np.bool_), better=2)
    assert going.tolist() == [True, True, True, False]


def test_a_candidate_behind_fewer_than_the_better_half_continues() -> None:
    values = np.array([[1.0] * 20, [0.0] * 20, [0.0] * 20, [0.0] * 20])
    going = still_racing(confidently_ahead(table(values), level=0.01), np.ones(4, dtype=np.bool_), better=2)
    # The first one's place is settled: it is ahead of all.
    assert going.tolist() == [False, True, True, True]


def test_a_race_whose_order_is_settled_ends() -> None:
    values = np.repeat(np.array([[0.9], [0.6], [0.3], [0.0]]), 60, axis=1)
    assert not still_racing(confidently_ahead(table(values), level=0.01), np.ones(4, dtype=np.bool_), better=2).any()


def test_who_stopped_does_not_come_back() -> None:
    racing = np.array([True, False, True, True])
    values = np.ones((4, 5))
    assert still_racing(confidently_ahead(table(values), level=0.01), racing, better=2).tolist() == [
        True,
        False,
        True,
        True,
    ]


@given(seed=st.integers(0, 10_000), count=st.integers(4, 12), n_samples=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_as_many_as_are_selected_never_stop_as_the_worse_ones(seed: int, count: int, n_samples: int) -> None:
    draws = np.random.default_rng(seed)
    scores = (draws.random((count, n_samples)) < draws.random((count, 1))).astype(np.float64)
    better = count // 2
    behind = confidently_ahead(table(scores), level=0.2).sum(axis=0) >= better
    assert behind.sum() <= count - better
    going = still_racing(confidently_ahead(table(scores), level=0.2), np.ones(count, dtype=np.bool_), better=better)
    assert not (going & behind).any()


def test_stopped_candidates_are_ranked_by_their_distance_to_the_others_on_their_own_samples() -> None:
    ability, ease = np.array([0.4, 0.3, 0.1]), np.array([0.5, 0.1, 0.2, 0.0, 0.3, 0.4])
    scores = ability[:, None] + ease
    scores[2, 2:] = np.nan
    found = to_the_leaders(table(scores))
    assert found.leads.tolist() == [True, True, False]
    assert found.differences == pytest.approx([0.05, -0.05, -0.25])


def test_abilities_do_not_count_easy_samples_as_skill() -> None:
    draws = np.random.default_rng(2)
    ability = np.repeat([0.2, 0.4, 0.5], 10) + draws.normal(0, 0.02, 30)
    ease = draws.uniform(-0.2, 0.2, 60)
    ease[:20] += 0.5
    generations = np.repeat([0, 1, 2], 10)
    scores = ability[:, None] + ease
    seen = np.zeros_like(scores, dtype=np.bool_)
    for generation in range(3):
        # The first generation has the easy samples, and a few in common with the others.
        own = slice(0, 24) if generation == 0 else slice(18, 60)
        seen[generations == generation, own] = True
    scores[~seen] = np.nan
    raw = np.nanmean(scores, axis=1)
    assert np.argmax(raw) < 10
    found = abilities(scores, generations).values
    assert set(np.argsort(-found)[:8]) <= set(range(20, 30))


def test_abilities_are_the_less_sure_the_fewer_samples_were_seen() -> None:
    draws = np.random.default_rng(4)
    scores = (draws.random((40, 50)) < 0.6).astype(np.float64)
    scores[20:, 10:] = np.nan
    found = abilities(scores, np.zeros(40, dtype=np.int64))
    assert found.noise[20:] == pytest.approx(found.noise[:20] * 5)
    # What is left after the fit is a little less than the true variance, 0.24.
    assert 0.15 / 50 < found.noise[0] < 0.24 / 50


@given(
    first=st.integers(2, 60),
    growth=st.floats(1.1, 4),
    limit=st.floats(0.05, 1),
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=3),
)
def test_looks_grow_up_to_the_limit_and_every_block_has_every_task(
    first: int, growth: float, limit: float, sizes: list[int]
) -> None:
    found = looks(first=first, growth=growth, limit=limit, sizes=sizes)
    before = tuple(0 for _ in sizes)
    for counts in found:
        assert all(now > then for now, then in zip(counts, before, strict=True))
        before = counts
    last = max(min(first, sum(sizes)), limit * sum(sizes))
    assert all(count <= size for count, size in zip(before, sizes, strict=True))
    assert all(
        abs(count - max(1, last * size / sum(sizes))) <= 0.5 + 1e-9 for count, size in zip(before, sizes, strict=True)
    )


def test_looks_of_one_task_double() -> None:
    assert looks(first=10, growth=2.0, limit=0.25, sizes=[160]) == ((10,), (20,), (40,))
    assert looks(first=10, growth=2.0, limit=1.0, sizes=[100, 20]) == ((8, 2), (17, 3), (33, 7), (67, 13), (100, 20))
