"""The compiled step of attention against torch's, row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.models.decoding import slots
from evovlm.models.decoding.row_attention import NO_SOFTCAP, NO_WINDOW, WIDTH, attend_rows
from evovlm.models.decoding.slots import Continuing, Rule, Shape, Slots, masked_attention


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    size=st.sampled_from([4, 8, 16, 80, 88]),
    window=st.sampled_from([None, 1, 7]),
    softcap=st.sampled_from([None, 5.0]),
    spread=st.sampled_from([0.1, 30.0]),
)
def test_each_row_attends_to_its_own_slot(
    lengths: list[int], heads: tuple[int, int], size: int, window: int | None, softcap: float | None, spread: float
) -> None:
    n_heads, n_key_heads = heads
    rule = Rule(scale=size**-0.5, window=window, softcap=softcap)
    generator = torch.Generator().manual_seed(1)
    shape = Shape(n_layers=1, heads=n_key_heads, size=size, dtype=torch.float32, device=torch.device("cpu"))
    # One more slot than rows, and the rows in another order than the slots.
    held = torch.arange(len(lengths)).flip(0) + 1
    both = [Slots(shape, n=len(lengths) + 1, capacity=41)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slots, "has_row_step", lambda *_: False)
        both.append(Slots(shape, n=len(lengths) + 1, capacity=41))

    def drawn(*of: int) -> torch.Tensor:
        return spread * torch.randn(of, generator=generator)

    past = [(drawn(n_key_heads, n, size), drawn(n_key_heads, n, size)) for n in lengths]
    for slot, (keys, values) in zip(held.tolist(), past, strict=True):
        for each in both:
            each.enter(0, slot, keys, values)
    rows = Continuing(slots=held, lengths=torch.tensor(lengths), end=len(lengths) + 1, reach=max(lengths) + 1)
    queries, keys, values = drawn(len(lengths), n_heads, size), *(drawn(len(lengths), n_key_heads, size) for _ in "kv")
    expected = []
    for row, (past_keys, past_values) in enumerate(past):
        all_keys = torch.cat([past_keys, keys[row][:, None]], dim=1).repeat_interleave(n_heads // n_key_heads, 0)
        all_values = torch.cat([past_values, values[row][:, None]], dim=1).repeat_interleave(n_heads // n_key_heads, 0)
        seen = torch.ones(1, all_keys.shape[1], dtype=torch.bool)
        if window is not None:
            seen[:, :-window] = False
        double = (states.double() for states in (queries[row][:, None], all_keys, all_values))
        expected.append(masked_attention(*double, seen=seen, rule=rule)[:, 0])
    for each in both:
        found = each.attend(0, queries.clone(), keys, values, rule=rule, rows=rows)
        # Scores grow with the square of the spread, and with them what rounding makes of a weight.
        torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-5 + 1e-6 * spread**3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_hidden(value: float) -> None:
    queries = np.ones((1, 1, 4), np.float32)
    new = np.ones((1, 1, 4), np.float32)
    values = new.copy()
    values[0, 0, 2] = value
    out = np.zeros((1, 1, 4), np.float32)
    keys, kept = np.zeros((1, 1, 1, 4, WIDTH), np.float32), np.zeros((1, 1, WIDTH, 4), np.float32)
    rows = np.zeros(1, np.int64)
    attend_rows(queries, new, values, keys, kept, rows, rows, np.float32(0.5), NO_WINDOW, np.float32(NO_SOFTCAP), out)
    assert not np.isfinite(out[0, 0, 2])
