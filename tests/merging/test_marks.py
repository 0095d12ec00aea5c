"""Which entries are kept is found once, stored in bits, and found again the same without them."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.merging.arithmetic import mark_kernels, task_vector
from evovlm.merging.arithmetic.combination import Combination, KeepByRank, KeepDrawn, combine
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.arithmetic.selection import draws
from evovlm.merging.in_turn import in_turn
from evovlm.recipes.recipe import MergeSettings
from tests.merging.vectors import method_inputs, task_vectors

SEVERAL_STEPS = 3 * mark_kernels.STEP + 17


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 300),
    distinct=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 99),
)
def test_rows_are_ranked_by_magnitude_and_equal_entries_by_index(
    rows: int, columns: int, distinct: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    values = generator.choice(generator.normal(size=distinct), (rows, columns)).astype(np.float32)
    keys = np.empty(values.shape, dtype=np.uint64)
    mark_kernels.rank_rows(values, keys)
    order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    assert (order == np.argsort(np.abs(values), axis=1, kind="stable")).all()
    assert ((keys >> np.uint64(32)).astype(np.uint32) == np.take_along_axis(np.abs(values), order, 1).view("u4")).all()


def test_magnitudes_of_every_byte_are_ranked() -> None:
    values = np.arange(0, 1 << 31, 104_729, dtype=np.uint32)
    np.random.default_rng(0).shuffle(values)
    keys = np.empty((1, len(values)), dtype=np.uint64)
    mark_kernels.rank_rows(values.view(np.float32)[None], keys)
    assert ((keys[0] >> np.uint64(32)) == np.sort(values)).all()


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, SEVERAL_STEPS])
def test_marks_hold_the_kept_entries_and_sums_are_of_them(size: int) -> None:
    generator = np.random.default_rng(size)
    values, kept = generator.normal(size=size).astype(np.float32), generator.random(size) < 0.3
    marks = np.empty(mark_kernels.mark_bytes(size), dtype=np.uint8)
    total, some = mark_kernels.sum_kept(values, kept, 1e6, marks)
    whole = (np.abs(values).astype(np.float64) * 1e6).astype(np.int64)
    assert (total, some) == (whole.sum(), whole[kept].sum())
    found = np.empty(-(-size // mark_kernels.STEP) * mark_kernels.STEP, dtype=np.bool_)
    for step in range(len(marks) // mark_kernels.MARK_BYTES):
        own = marks[step * mark_kernels.MARK_BYTES :][: mark_kernels.MARK_BYTES]
        mark_kernels.read_marks(own, found[step * mark_kernels.STEP :][: mark_kernels.STEP])
    assert (found[:size] == kept).all()


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 5000), size=st.integers(0, 3000), limit=st.integers(0, (1 << 24) - 1))
def test_drawn_entries_are_marked_where_the_draw_is_below_the_limit(start: int, size: int, limit: int) -> None:
    drawn = draws(7, start=start, size=size)
    words = np.empty(mark_kernels.DRAW_WORDS, dtype=np.uint64)
    # With the upper 16 bits alone as well, which decide unless one equals the limit's.
    for upper in (np.empty(0, dtype=np.uint16), (drawn >> np.uint32(8)).astype(np.uint16)):
        kept = np.empty(size, dtype=np.bool_)
        mark_kernels.mark_drawn(kept, upper, np.uint32(limit), np.uint64(7), start, words)
        assert (kept == (drawn < limit)).all()


def unmarked(combination: Combination) -> Combination:
    """Return the combination without its marks, so that what is kept is found again."""
    terms = []
    for term in combination.terms:
        assert isinstance(term.keep, (KeepDrawn, KeepByRank))
        assert term.keep.marks
        terms.append(replace(term, keep=replace(term.keep, marks=None)))
    return replace(combination, terms=tuple(terms))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear"])
@pytest.mark.parametrize("chunk", [task_vector.CHUNK, 1 << 10, 1 << 11])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_marked_entries_give_the_bytes_that_unmarked_ones_give(
    method: str, chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, *models = torch.randn(4, 70, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    merged = []
    for own in (chunk, task_vector.CHUNK):
        monkeypatch.setattr(task_vector, "CHUNK", own)
        vectors = task_vectors(base, models)
        inputs = method_inputs(method, vectors, [0.7, 0.5, 0.3], [0.4, 0.9, 0.1], settings=MergeSettings(rescale="l1"))
        marked = METHODS[method].function(inputs)
        for combination in (marked, unmarked(marked)):
            out = np.empty(7000, dtype=vectors.sources[0].dtype)
            for stretch in vectors.stretches(whole_rows=METHODS[method].whole_rows):
                combine(vectors, combination, stretch, out[stretch.start : stretch.start + stretch.size])
            merged.append(out.tobytes())
    assert len(set(merged)) == 1


def test_results_come_in_order_and_no_more_is_done_ahead_than_asked() -> None:
    begun = []

    def doubled(number: int) -> int:
        begun.append(number)
        return 2 * number

    for threads in (1, 3):
        begun.clear()
        for number, result in enumerate(in_turn(doubled, range(50), threads=threads, ahead=4)):
            assert result == 2 * number
            assert len(begun) <= number + 6
        assert sorted(begun) == list(range(50))


def test_an_error_stops_what_has_not_begun_and_is_raised() -> None:
    begun, waiting = [], threading.Event()

    def fail(number: int) -> None:
        begun.append(number)
        if number == 1:
            waiting.set()
            raise ValueError(number)
        waiting.wait(5)
        # As much work as it takes the other thread to be cancelled.
        time.sleep(0.02)

    with pytest.raises(ValueError, match="1"):
        list(in_turn(fail, range(1000), threads=2, ahead=1000))
    assert len(begun) < 1000
