"""The magnitudes that torch reads on a device, here the CPU, are those of the compiled passes, to the bit."""

from pathlib import Path

import pytest
import torch

from evovlm.merging.arithmetic import gpu_tensors
from evovlm.merging.arithmetic.gpu_tensors import GpuTensors
from evovlm.merging.arithmetic.selection import NOTHING, MagnitudeOrder
from evovlm.merging.arithmetic.task_vector import TaskVectors
from evovlm.merging.merge import Merger
from evovlm.merging.models.row_plan import RowPlan, SharedRows
from tests.merging.recipes import make_recipe, merge_all
from tests.merging.vectors import task_vectors

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIZE = 40 * 33


def tensors(budget_bytes: int = 1 << 30) -> GpuTensors:
    return GpuTensors(device=torch.device("cpu"), budget_bytes=budget_bytes)


def of_models(dtype: torch.dtype, *, with_base: bool, seed: int = 0) -> TaskVectors:
    """Return a base and two sources with many equal differences, zeros of both signs and numbers below the normal."""
    draws = torch.Generator().manual_seed(seed)
    base = torch.randn(40, 33, generator=draws)
    steps = [(torch.randn(40, 33, generator=draws) * 4).round() / 64 for _ in range(2)]
    steps[0][:4] *= -0.0
    steps[1][5:9] *= 2.0**-120
    base[5:9] = 0.0
    sources = [(base + step).to(dtype) for step in steps]
    return task_vectors(base.to(dtype) if with_base else None, sources)


@pytest.mark.parametrize("at_once", [1 << 23, 100])
@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuts_are_those_of_the_cpu(
    dtype: torch.dtype, with_base: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_tensors, "_ENTRIES_AT_ONCE", at_once)
    vectors = of_models(dtype, with_base=with_base)
    for index in (0, 1):
        wanted = vectors.magnitudes(index)
        found = MagnitudeOrder(tensors().magnitudes(vectors, index))
        assert found.count_nonzero() == wanted.count_nonzero()
        for count in (0, 1, 2, 17, SIZE // 2, SIZE - 1, SIZE):
            assert found.cut(count) == wanted.cut(count)
        assert found.cut(0) == NOTHING
        with pytest.raises(ValueError, match="a cut after"):
            found.cut(SIZE + 1)


def test_rows_that_are_not_merged_count_in_the_numbers_of_entries() -> None:
    vectors = of_models(torch.bfloat16, with_base=True)
    labels = ("base", "sources.s0", "sources.s1")
    # Three runs, with rows between them that only the host has.
    shared = [
        SharedRows(row=row, n_rows=n_rows, starts=dict.fromkeys(labels, start))
        for row, n_rows, start in ((0, 5, 30), (9, 20, 0), (44, 3, 37))
    ]
    vectors.plan = RowPlan(n_rows=50, runs=tuple(shared), new=())
    wanted = vectors.magnitudes(1)
    found = MagnitudeOrder(tensors(0).magnitudes(vectors, 1))
    for count in (1, 100, 28 * 33):
        assert found.cut(count) == wanted.cut(count)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_a_merge_with_cuts_of_the_device_has_the_bits_of_the_cpu_s(models: Path, method: str) -> None:
    recipe, other = (
        make_recipe(models, dict(zip(("math16", "ja"), each, strict=True)), method=method, base="base16", host="base16")
        for each in (((0.7, 0.4), (0.5, 0.8)), ((0.7, 0.2), (0.5, 0.3)))
    )
    wanted = merge_all(recipe)
    asked: set[str] = set()
    merger, held = Merger.open(recipe.template), tensors()

    def magnitudes(vectors: TaskVectors, index: int) -> gpu_tensors.MagnitudesOnGpu:
        asked.add(vectors.name)
        return held.magnitudes(vectors, index)

    merger.read_magnitudes_on(magnitudes)
    # Another density before, whose cuts are cached.
    merge_all(other, merger=merger)
    found = merge_all(recipe, merger=merger)
    assert asked == set(merger.tensor_names)
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        assert torch.equal(found[name], values)
