"""Kept features: what goes in comes out, wherever it lay in between."""

import gc
import resource
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import NotEnoughRoom
from evovlm.models.pictures.feature_store import FeatureStore, ProcessedPictures

SHOWN = ProcessedPictures(texts=("<image>",), n_tokens=1)


@given(
    memory_bytes=st.integers(0, 400),
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_features_come_back_bit_for_bit_in_any_order(memory_bytes: int, rows: list[int], dtype: torch.dtype) -> None:
    store = FeatureStore(memory_bytes=memory_bytes)
    kept = {str(number): torch.randn(count, 6).to(dtype) for number, count in enumerate(rows)}
    for key, features in kept.items():
        store.put(key, features, shown=SHOWN)
    for key in reversed(kept):
        found = store.read([key])
        assert found.dtype == dtype
        assert torch.equal(found, kept[key])
    assert torch.equal(store.read(list(kept)), torch.cat(list(kept.values())))
    in_all = sum(features.nbytes for features in kept.values())
    assert in_all - memory_bytes <= store.spilled_bytes <= in_all


def test_what_fits_stays_in_memory_and_further_features_go_to_the_file(tmp_path: Path) -> None:
    store = FeatureStore(memory_bytes=100, folder=tmp_path)
    store.put("a", torch.ones(5, 4), shown=SHOWN)
    assert store.spilled_bytes == 0
    store.put("b", torch.ones(5, 4), shown=SHOWN)
    assert store.spilled_bytes == 80


def test_a_quarter_of_the_free_memory_is_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evovlm.models.pictures.feature_store.available_memory_bytes", lambda: 320)
    store = FeatureStore()
    for key in "ab":
        store.put(key, torch.ones(5, 4), shown=SHOWN)
    assert store.spilled_bytes == 80


def test_keeping_features_keeps_a_copy() -> None:
    store = FeatureStore(memory_bytes=1000)
    features = torch.ones(2, 3)
    store.put("a", features, shown=SHOWN)
    features.zero_()
    assert torch.equal(store.read(["a"]), torch.ones(2, 3))


def test_what_was_never_put_is_not_there() -> None:
    store = FeatureStore(memory_bytes=0)
    assert store.shown("a") is None
    with pytest.raises(KeyError):
        store.read(["a"])


def test_the_file_leaves_nothing_behind_and_closes_with_the_store(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = FeatureStore(memory_bytes=0, folder=tmp_path)
        store.put("a", torch.ones(5, 4), shown=SHOWN)
        # It has no name even while it is in use, so that a killed process leaves none either.
        assert list(tmp_path.iterdir()) == []
        file = store._file
        assert file is not None
        del store
        gc.collect()
    assert file.closed


def test_a_full_disk_is_reported_and_what_was_kept_before_is_still_there(tmp_path: Path) -> None:
    store = FeatureStore(memory_bytes=0, folder=tmp_path)
    store.put("a", torch.ones(5, 4), shown=SHOWN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(NotEnoughRoom, match=r"cannot keep 160 bytes of image features there .*\n.*TMPDIR"):
            store.put("b", torch.ones(5, 4), shown=SHOWN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.shown("b") is None
    assert torch.equal(store.read(["a"]), torch.ones(5, 4))
    store.put("b", torch.zeros(5, 4), shown=SHOWN)
    assert torch.equal(store.read(["b"]), torch.zeros(5, 4))


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    store = FeatureStore(memory_bytes=0, folder=tmp_path / "gone")
    with pytest.raises(NotEnoughRoom, match="cannot keep"):
        store.put("a", torch.ones(5, 4), shown=SHOWN)
