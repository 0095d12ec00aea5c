"""The kernel against the engine on the CPU, bit for bit; run by test_gpu.py, each time in a process of its own.

With TRITON_INTERPRET=1, which Triton reads when it is imported, the kernel runs in Python on tensors of the CPU.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evovlm.errors import BrokenCheckpoint
from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.arithmetic.buffers import Raw, Vector, narrow
from evovlm.merging.arithmetic.combination import Combination, Election, KeepBetween, KeepByRank, KeepDrawn, Term
from evovlm.merging.arithmetic.gpu_tensors import GpuTensors
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.arithmetic.selection import NOTHING, Cut
from evovlm.merging.arithmetic.task_vector import TaskVectors
from evovlm.merging.gpu import GpuCombiner, GpuMerger, is_combinable
from evovlm.merging.merge import Merger
from evovlm.merging.models.row_plan import RowPlan, SharedRows
from evovlm.recipes.recipe import MergeSettings
from evovlm.recipes.source_values import SourceParameters
from tests.merging.recipes import Collected, make_recipe
from tests.merging.vectors import InMemory, carried_out, method_inputs, stored, task_vectors
from tests.pico import pico_llm, pico_vlm

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = (0.7, -0.45, 0.3, 0.8)
# numpy warns of what a GPU does in silence.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def family(
    k: int, dtypes: Sequence[torch.dtype], *, shape: tuple[int, ...] = (23, 57), seed: int = 0
) -> list[torch.Tensor]:
    """Return a base and k sources like it, many of whose differences are equal in size."""
    draws = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=draws)
    steps = [(torch.randn(shape, generator=draws) * 4).round() / 64 for _ in range(k)]
    return [(base + step).to(dtype) for step, dtype in zip([torch.zeros(shape), *steps], dtypes, strict=True)]


def combiner(budget_bytes: int = 1 << 30) -> GpuCombiner:
    return GpuCombiner(tensors=GpuTensors(device=DEVICE, budget_bytes=budget_bytes))


def raw_bits(tensor: torch.Tensor) -> list[int]:
    return tensor.cpu().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16).tolist()


def on_cpu(
    vectors: TaskVectors, combination: Combination, *, rounded_to: torch.dtype, old: torch.Tensor
) -> torch.Tensor:
    """Return the engine's result in a parameter that held `old`."""
    result = old.clone()
    merged = carried_out(vectors, combination).numpy()
    for run in vectors.plan.runs:
        place = slice(run.row * vectors.columns, (run.row + run.n_rows) * vectors.columns)
        out: Raw = np.empty(place.stop - place.start, dtype=stored(torch.empty(0, dtype=rounded_to)).dtype)
        with np.errstate(all="ignore"):
            narrow(merged[place], out)
        result[place] = torch.from_numpy(out).view(rounded_to).to(old.dtype)
    return result


def check_same(
    vectors: TaskVectors,
    combination: Combination,
    *,
    rounded_to: torch.dtype = torch.float32,
    parameter: torch.dtype | None = None,
    gpu: GpuCombiner | None = None,
) -> None:
    assert is_combinable(combination)
    gpu = gpu or combiner()
    old = torch.full((vectors.plan.n_rows * vectors.columns,), 7.0, dtype=parameter or rounded_to)
    out = old.to(DEVICE, copy=True)
    gpu.begin()
    gpu.combine(vectors, combination, stored=rounded_to, out=out)
    wanted = on_cpu(vectors, combination, rounded_to=rounded_to, old=old)
    assert raw_bits(out) == raw_bits(wanted)
    assert gpu.is_finite() == bool(torch.isfinite(wanted).all())


# The kernel leaves them to the CPU: what they keep of an entry depends on several models.
ON_CPU = ("sce", "nearswap", "arcee_fusion", "ram")
ELEMENTWISE = [
    name for name, method in METHODS.items() if not method.whole_rows and name not in (*ON_CPU, "passthrough")
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ELEMENTWISE)
def test_every_method_for_one_to_four_sources(method: str, dtype: str) -> None:
    least, most = METHODS[method].sources
    for k in range(least, (most or 4) + 1):
        base, *sources = family(k, [DTYPES[dtype]] * (k + 1), seed=k)
        if METHODS[method].base == "first":
            sources = [base, *sources]
        vectors = task_vectors(base if METHODS[method].base == "needed" else None, sources)
        weights = WEIGHTS[:k] if method != "karcher" else [abs(weight) for weight in WEIGHTS[:k]]
        densities = [0.6, 1.0, 0.25, 0.9][:k]
        inputs = method_inputs(method, vectors, weights, densities, gammas=[0.1] * k)
        check_same(vectors, METHODS[method].function(inputs), rounded_to=DTYPES[dtype])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("linear", MergeSettings(normalize=False)),
        ("task_arithmetic", MergeSettings(normalize=True, lambda_=0.7)),
        ("ties", MergeSettings(normalize=False, lambda_=1.3)),
        ("dare_linear", MergeSettings(rescale="none", normalize=True)),
        ("dare_linear", MergeSettings(rescale="l1")),
        ("dare_ties", MergeSettings(rescale="l1", lambda_=0.9)),
        ("dare_ties", MergeSettings(normalize=True)),
        ("breadcrumbs_ties", MergeSettings(normalize=True)),
        ("nuslerp", MergeSettings(row_wise=True)),
        ("model_stock", MergeSettings(row_wise=True)),
    ],
)
def test_settings(method: str, settings: MergeSettings) -> None:
    k = 2 if method == "nuslerp" else 3
    base, *sources = family(k, [torch.float32] * (k + 1))
    vectors = task_vectors(base, sources) if METHODS[method].base != "none" else task_vectors(None, sources)
    inputs = method_inputs(method, vectors, WEIGHTS[:k], [0.6, 1.0, 0.25][:k], settings=settings)
    check_same(vectors, METHODS[method].function(inputs))


@pytest.mark.parametrize("method", ["ties", "dare_ties", "breadcrumbs"])
def test_densities_from_none_to_all(method: str) -> None:
    base, *sources = family(2, [torch.bfloat16] * 3)
    vectors = task_vectors(base, sources)
    gpu = combiner()
    for density in (0.0, 1e-9, 0.001, 0.5, 0.999, 1.0):
        for weights in ((0.5, 0.5), (-0.5, 0.45), (0.0, 0.3), (0.0, 0.0)):
            inputs = method_inputs(method, vectors, weights, (density, 0.7))
            check_same(vectors, METHODS[method].function(inputs), rounded_to=torch.bfloat16, gpu=gpu)


def test_models_of_different_dtypes() -> None:
    for base, source, host in itertools.product(DTYPES.values(), repeat=3):
        models = family(2, [base, source, torch.float32])
        vectors = task_vectors(models[0], models[1:])
        inputs = method_inputs("dare_ties", vectors, (0.6, 0.5), (0.5, 0.5))
        check_same(vectors, METHODS["dare_ties"].function(inputs), rounded_to=host, parameter=source)


def test_float64_is_rounded_to_float32_first() -> None:
    draws = torch.Generator().manual_seed(0)
    base, source = torch.randn((2, 9, 8), generator=draws, dtype=torch.float64)
    vectors = task_vectors(base, [source])
    check_same(vectors, Combination(terms=(Term(index=0, first=0.3),)))


@pytest.mark.parametrize("columns", [1, 3, 8, 40])
@pytest.mark.parametrize("method", ["ties", "dare_ties", "linear"])
def test_runs_that_begin_and_end_anywhere(method: str, columns: int) -> None:
    rows = 300
    models = family(2, [torch.bfloat16, torch.bfloat16, torch.float32], shape=(rows, columns))
    labels = ("base", "sources.s0", "sources.s1")
    runs = (
        SharedRows(1, 3, dict(zip(labels, (5, 0, 7), strict=True))),
        SharedRows(5, 200, dict(zip(labels, (16, 15, 13), strict=True))),
        SharedRows(208, 64, dict(zip(labels, (208, 200, 216), strict=True))),
        SharedRows(290, 1, dict(zip(labels, (299, 290, 298), strict=True))),
    )
    vectors = TaskVectors(
        name="t",
        plan=RowPlan(n_rows=rows, runs=runs),
        columns=columns,
        row_length=columns,
        base=None if method == "linear" else InMemory("base", "base", stored(models[0])),  # type: ignore[arg-type]
        sources=tuple(InMemory(label, label, stored(m)) for label, m in zip(labels[1:], models[1:], strict=True)),  # type: ignore[arg-type]
        source_names=("s0", "s1"),
        seed=3,
    )
    inputs = method_inputs(method, vectors, (0.6, 0.5), (1.0, 1.0) if method == "linear" else (0.5, 0.4))
    check_same(vectors, METHODS[method].function(inputs), rounded_to=torch.bfloat16)
    # Nothing stays on the device, everything is fetched again.
    gpu = combiner(budget_bytes=0)
    for _ in range(2):
        check_same(vectors, METHODS[method].function(inputs), rounded_to=torch.bfloat16, gpu=gpu)


def test_row_factors_over_runs() -> None:
    base, *sources = family(2, [torch.float32] * 3, shape=(40, 10))
    vectors = task_vectors(base, sources)
    factors = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)).numpy()
    terms = tuple(Term(index=i, first=1.0, second=0.5, row_factors=each) for i, each in enumerate(factors))
    check_same(vectors, Combination(terms=terms, whole_rows=True))
    vector = task_vectors(base[0], [source[0] for source in sources])
    check_same(vector, Combination(terms=terms, whole_rows=True))


def test_zeros_keep_their_sign() -> None:
    zeros = torch.tensor([0.0, -0.0] * 12)
    for base, source in itertools.product((zeros, -zeros, None), (zeros, -zeros)):
        vectors = task_vectors(base, [source, source])
        for terms in ((Term(index=0, first=1.0),), (Term(index=0, first=-1.0), Term(index=1, first=1.0)), ()):
            check_same(vectors, Combination(terms=terms))
            check_same(vectors, Combination(terms=terms, fused=True))
            check_same(vectors, Combination(terms=terms, divisor=-2.0, lambda_=1.5))
            if terms:
                weights = (1.0,) * len(terms)
                check_same(
                    vectors, Combination(terms=terms, election=Election(mix_weights=weights, divisor_weights=weights))
                )


def test_tiny_and_huge_numbers() -> None:
    draws = torch.Generator().manual_seed(0)
    for scale in (2.0**-149, 2.0**-140, 2.0**-127, 2.0**100, 2.0**120):
        models = [torch.randn(999, generator=draws) * scale for _ in range(4)]
        vectors = task_vectors(models[0], models[1:])
        for method in ("dare_ties", "ties", "task_arithmetic"):
            inputs = method_inputs(method, vectors, (0.7, -0.5, 0.6), (0.5, 0.7, 0.9))
            for dtype in DTYPES.values():
                check_same(vectors, METHODS[method].function(inputs), rounded_to=dtype)


def test_ties_between_equal_magnitudes_go_by_index() -> None:
    vectors = task_vectors(torch.zeros(2000), [torch.ones(2000)])
    one = int(np.float32(1).view(np.uint32))
    for low, high in ((5, 2), (1999, 1023), (1024, -1), (8, 8)):
        keep = KeepBetween(low=Cut(one, low), high=NOTHING if high < 0 else Cut(one, high))
        check_same(vectors, Combination(terms=(Term(index=0, first=1.0, keep=keep),)))


def test_overflow_is_noticed() -> None:
    gpu, out = combiner(), torch.zeros(50, device=DEVICE)
    twice = Combination(terms=(Term(index=0, first=2.0),))
    # The second is finite in float32, and too large for what the host stores.
    for number, stored_as in ((3e38, torch.float32), (4e4, torch.float16)):
        gpu.begin()
        assert gpu.is_finite()
        vectors = task_vectors(None, [torch.full((50,), number)], name=str(stored_as))
        gpu.combine(vectors, twice, stored=stored_as, out=out)
        assert not gpu.is_finite()


def test_a_source_that_is_not_finite_is_an_error_where_it_is_used() -> None:
    class Placed(InMemory):
        place = type("Place", (), {"file": Path("models/nan/model.safetensors")})

    vectors = task_vectors(torch.zeros(9), [torch.ones(9), torch.ones(9)])
    broken = Placed("sources.s1", "sources.s1", np.full(9, np.nan, dtype=np.float32))
    vectors.sources = (vectors.sources[0], broken)  # type: ignore[assignment]
    gpu, out = combiner(), torch.zeros(9, device=DEVICE)
    gpu.combine(vectors, Combination(terms=(Term(index=0, first=1.0),)), stored=torch.float32, out=out)
    with pytest.raises(BrokenCheckpoint, match="holds numbers that are not finite"):
        gpu.combine(vectors, Combination(terms=(Term(index=1, first=1.0),)), stored=torch.float32, out=out)


def test_what_the_kernel_does_not_do_is_known() -> None:
    class Other:
        def scale(self, values: Vector, start: int, first: np.float32, second: np.float32) -> None: ...

    drawn = KeepDrawn(key=1, limit=5)
    between = KeepBetween(low=Cut(5, 5), high=NOTHING)
    by_rank = KeepByRank(key=1, row_length=8, lowest=0.2, reach=0.2, own=True)

    def keeping(*keeps: object) -> Combination:
        return Combination(terms=tuple(Term(index=i, first=1.0, keep=keep) for i, keep in enumerate(keeps)))  # type: ignore[arg-type]

    assert is_combinable(keeping(None, drawn, drawn))
    assert is_combinable(keeping(between, None))
    assert not is_combinable(keeping(by_rank))
    assert not is_combinable(keeping(drawn, between))
    assert not is_combinable(keeping(Other()))
    assert is_combinable(replace(keeping(None), fused=True))
    assert not is_combinable(replace(keeping(drawn), fused=True))
    assert not is_combinable(Combination(terms=(), across=Cut(5, 5)))
    factors = np.ones(3, dtype=np.float32)
    some = (Term(index=0, first=1.0), Term(index=1, first=1.0, row_factors=factors))
    assert not is_combinable(Combination(terms=some, whole_rows=True))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = pico_llm(folder / "base", dtype=torch.bfloat16)
    pico_llm(folder / "math", like=base, seed=1)
    pico_llm(folder / "ja", like=base, seed=2, dtype=torch.bfloat16)
    pico_vlm(folder / "vlm", like=base, seed=3)
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_model_by_every_method(models: Path, method: str) -> None:
    row = METHODS[method]
    n = min(row.sources[1] or 2, 2)
    usual = (0.7 if "weight" in row.parameters else 1.0, 0.5 if "density" in row.parameters else 1.0)
    numbers = dict.fromkeys(("math", "ja")[:n], usual)
    settings = MergeSettings(select_topk=0.5) if method == "sce" else None
    base = "base" if row.base != "none" else None
    recipe = make_recipe(models, numbers, method=method, base=base, host="vlm", vocabulary="host", settings=settings)
    recipes = [recipe]
    if "weight" in row.parameters and method != "passthrough":
        # One source alone, and per unit.
        alone = {name: SourceParameters(weight=float(name == "math")) for name in numbers}
        recipes.append(replace(recipe, parameters=alone))
    merger = Merger.open(recipe, threads=1 + (n - 1))
    wanted, rest = Collected(merger), Collected(merger)
    parameters = {name: tensor.clone().to(DEVICE) for name, tensor in rest.tensors.items()}
    gpu = GpuMerger(merger, {name: tensor.view(-1) for name, tensor in parameters.items()})
    for each in recipes:
        merger.merge(each, wanted)
        left = _Names(rest)
        assert gpu.merge(each, left)
        # With one source alone most methods are plain sums; nearswap always has one.
        is_whole = each is recipe or method == "nearswap"
        assert bool(left.names) == ((row.whole_rows or method in ON_CPU) and is_whole)
        for name, tensor in wanted.tensors.items():
            found = rest.tensors[name] if name in left.names else parameters[name]
            assert raw_bits(found.flatten()) == raw_bits(tensor.flatten()), name


def test_the_parameters_of_a_loaded_model(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "ja": (-0.3, 0.4)}, host="vlm", vocabulary="host")
    resident = ResidentModel.open(recipe.template, device=DEVICE.type)
    names = resident.merger.tensor_names
    gpu = GpuMerger(resident.merger, {name: resident.engine._writer.on_device()[name] for name in names})
    rest = Collected(resident.merger)
    assert gpu.merge(recipe, rest)
    found = {name: parameter.detach().clone() for name, parameter in resident.loaded.model.named_parameters()}
    on_cpu = ResidentModel.open(recipe.template, device="cpu")
    assert on_cpu.merge(recipe)
    for name, parameter in on_cpu.loaded.model.named_parameters():
        assert raw_bits(found[name].float().flatten()) == raw_bits(parameter.detach().flatten()), name


def test_variants_use_the_same_models_on_the_device(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "ja": (-0.3, 0.4)}, method="dare_ties")
    merger = Merger.open(recipe, threads=1)
    rest = Collected(merger)
    gpu = GpuMerger(merger, {name: tensor.to(DEVICE).view(-1) for name, tensor in rest.tensors.items()})
    weights = {name: SourceParameters(weight=each.weight) for name, each in recipe.parameters.items()}
    for variant in (
        recipe,
        replace(recipe, method="ties"),
        replace(recipe, method="linear", parameters=weights),
        recipe,
    ):
        own = merger.variant(variant.template)
        assert gpu.variant(own).merge(variant, rest)
        wanted = Collected(Merger.open(variant, threads=1))
        Merger.open(variant, threads=1).merge(variant, wanted)
        for name, tensor in wanted.tensors.items():
            found = gpu._parameters[name].cpu()
            assert raw_bits(found.flatten()) == raw_bits(tensor.flatten()), (variant.method, name)


def test_a_candidate_that_failed_leaves_nothing_behind(models: Path) -> None:
    recipe = make_recipe(models, {"math": (1e40, 1.0), "ja": (0.5, 1.0)}, method="task_arithmetic")
    merger = Merger.open(recipe, threads=1)
    rest = Collected(merger)
    gpu = GpuMerger(merger, {name: tensor.to(DEVICE).view(-1) for name, tensor in rest.tensors.items()})
    assert not gpu.merge(recipe, rest)
    usual = {name: SourceParameters(weight=0.5) for name in recipe.parameters}
    assert gpu.merge(replace(recipe, parameters=usual), rest)


class _Names:
    """Passes merged entries on and notes of which tensors they are."""

    def __init__(self, sink: Collected) -> None:
        self.sink = sink
        self.names: set[str] = set()

    def write(self, name: str, start: int, values: Raw) -> None:
        self.names.add(name)
        self.sink.write(name, start, values)
