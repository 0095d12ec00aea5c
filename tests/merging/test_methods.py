"""The arithmetic of each method against its slow twin, and what must hold of each."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic import mark_kernels, task_vector
from evovlm.merging.arithmetic.methods import METHODS, check_parameters, get_method
from evovlm.merging.arithmetic.selection import draw_key
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, Rescale
from evovlm.recipes.source_values import SourceParameters
from tests.merging.vectors import merged_by
from tests.reference import merging as slow

RESCALES: tuple[Rescale, ...] = ("density", "l1", "none")
WITH_BASE = [name for name, method in METHODS.items() if method.needs_base]
WITH_DENSITY = [name for name, method in METHODS.items() if "density" in method.parameters]
RESCALED = [name for name, method in METHODS.items() if "rescale" in method.settings]
NORMALIZED = [name for name, method in METHODS.items() if "normalize" in method.settings and method.needs_base]


# Against the slow twins.


def twin_of(
    method: str,
    base: torch.Tensor | None,
    models: Sequence[torch.Tensor],
    weights: Sequence[float],
    densities: Sequence[float],
    gammas: Sequence[float],
    epsilons: Sequence[float],
    merge_settings: MergeSettings,
) -> torch.Tensor:
    """Return what the slow twin makes of the same numbers, flat, in float64."""
    normalize = METHODS[method].normalize if merge_settings.normalize is None else merge_settings.normalize
    shape = models[0].shape
    merged = slow.TWINS[method](
        slow.Given(
            base=None if base is None or METHODS[method].base == "none" else base.flatten().tolist(),
            models=[model.flatten().tolist() for model in models],
            weights=weights,
            densities=densities,
            gammas=gammas,
            epsilons=epsilons,
            keys=[draw_key(0, f"s{index}", "t") for index in range(len(models))],
            row_length=shape[-1],
            rescale=merge_settings.rescale,
            normalize=normalize,
            lambda_=merge_settings.lambda_,
            row_wise=merge_settings.row_wise,
            select_topk=merge_settings.select_topk,
            max_iterations=merge_settings.max_iterations,
            tolerance=merge_settings.tolerance,
            threshold=merge_settings.threshold,
        )
    )
    return torch.tensor(merged, dtype=torch.float64)


def draw_tensors(data: st.DataObject, n_models: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a base and models: of any of three dtypes, one or two dimensions, smooth or full of ties and zeros."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    shape = data.draw(st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 5), st.integers(1, 9))))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    base = torch.randn(shape, generator=generator)
    changes = [0.3 * torch.randn(shape, generator=generator) for _ in range(n_models)]
    if data.draw(st.booleans()):
        # Steps of a quarter: equal magnitudes, zeros, and parts that cancel.
        base = (base * 4).round() / 4
        changes = [(change * 8).round() / 4 for change in changes]
    return base.to(dtype), [(base + change).to(dtype) for change in changes]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_method_agrees_with_its_slow_twin(method: str, data: st.DataObject) -> None:
    row = METHODS[method]
    least, most = row.sources
    n = data.draw(st.integers(least, most or 4))
    base, models = draw_tensors(data, n)
    # Two directions of a single number cancel but for the 1e-8 added to their lengths: what is left is rounding.
    assume(method != "multislerp" or base.numel() > 1)
    has_base = row.needs_base or (row.base == "optional" and data.draw(st.booleans()))

    def tenths(low: int, high: int) -> list[float]:
        # Whole tenths: sums that cancel on paper meet the rule for ties often enough.
        return [each / 10 for each in data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))]

    weights = tenths(0 if method == "karcher" else -15, 15)
    if row.base == "none" or method == "multislerp":
        weights[0] = max(weights[0], 0.1) if method == "karcher" else weights[0] or 1.0
    if method == "multislerp" and abs(sum(weights)) < 0.2:
        weights = [abs(weight) for weight in weights]
    densities = tenths(0, 10) if "density" in row.parameters else [1.0] * n
    gammas = tenths(0, 10) if "gamma" in row.parameters else [0.01] * n
    epsilons = tenths(0, 5) if "epsilon" in row.parameters else [0.15] * n
    choices: dict[str, st.SearchStrategy[object]] = {
        "rescale": st.sampled_from(RESCALES),
        "normalize": st.booleans(),
        "lambda_": st.sampled_from([1.0, 0.7, -1.3]),
        "row_wise": st.booleans(),
        "select_topk": st.integers(0, 20).map(lambda each: each / 20),
        "max_iterations": st.integers(1, 12),
        "tolerance": st.sampled_from([1e-5, 1e-3]),
        "threshold": st.sampled_from([1e-5, 0.2]),
    }
    chosen = MergeSettings(**{name: data.draw(choices[name], label=name) for name in sorted(row.settings)})  # type: ignore[arg-type]
    merged = merged_by(
        method,
        base if has_base else None,
        models,
        weights,
        densities,
        gammas=gammas,
        epsilons=epsilons,
        settings=chosen,
    )
    wanted = twin_of(method, base if has_base else None, models, weights, densities, gammas, epsilons, chosen)
    # Parts of up to 15 times an entry (weights), 10 times that (densities), may cancel.
    assert torch.allclose(merged.double(), wanted, rtol=1e-5, atol=2e-5), (merged, wanted)


def test_every_method_has_a_twin() -> None:
    assert slow.TWINS.keys() == METHODS.keys()


# No weight, no density, all of it.


def plain_models(n_models: int, *shape: int, seed: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return a base, with a -0.0, and models around it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape or (6, 8), generator=generator)
    models = [base + 0.3 * torch.randn(base.shape, generator=generator) for _ in range(n_models)]
    base.view(-1)[0] = -0.0
    return base, models


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.flatten().view(torch.int32), right.flatten().view(torch.int32))


def source_count(method: str) -> int:
    least, most = METHODS[method].sources
    return max(least, min(2, most or 2))


@pytest.mark.parametrize("method", [name for name in WITH_BASE if "weight" in METHODS[name].parameters])
@pytest.mark.parametrize("rescale", RESCALES)
def test_no_weight_gives_the_base_bit_for_bit(method: str, rescale: Rescale) -> None:
    n = source_count(method)
    base, models = plain_models(n)
    merged = merged_by(method, base, models, [0.0] * n, [0.5] * n, settings=MergeSettings(rescale=rescale))
    assert same_bits(merged, base)


@pytest.mark.parametrize("method", WITH_DENSITY)
@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("normalize", [False, True])
def test_density_0_gives_the_base_bit_for_bit(method: str, rescale: Rescale, normalize: bool) -> None:
    base, models = plain_models(2)
    chosen = MergeSettings(rescale=rescale, normalize=normalize)
    assert same_bits(merged_by(method, base, models, [0.7, 0.4], [0.0, 0.0], settings=chosen), base)


@pytest.mark.parametrize("shape", [(1,), (40,), (5, 8)])
def test_sce_that_selects_nothing_gives_the_base_bit_for_bit(shape: tuple[int, ...]) -> None:
    base, models = plain_models(3, *shape)
    assert same_bits(merged_by("sce", base, models, [1.0] * 3, settings=MergeSettings(select_topk=0.0)), base)
    # Equal sources do not vary, so a share of what varies is nothing.
    assert same_bits(merged_by("sce", base, models[:1] * 3, [1.0] * 3, settings=MergeSettings(select_topk=0.9)), base)


@pytest.mark.parametrize("rescale", RESCALES)
def test_density_1_drops_nothing(rescale: Rescale) -> None:
    base, models = plain_models(3)
    chosen = MergeSettings(rescale=rescale, normalize=False)
    weights, ones = [0.7, 0.4, -0.2], [1.0] * 3

    def merged(method: str) -> torch.Tensor:
        return merged_by(method, base, models, weights, ones, gammas=[0.5] * 3, settings=chosen)

    for method in ("dare_linear", "breadcrumbs", "della_linear"):
        assert same_bits(merged(method), merged("task_arithmetic")), method
    for method in ("dare_ties", "breadcrumbs_ties", "della"):
        assert same_bits(merged(method), merged("ties")), method


NOT_ITSELF = ("slerp", "nuslerp", "model_stock", "nearswap", "arcee_fusion")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NOT_ITSELF])
def test_one_source_alone_is_itself(method: str) -> None:
    base, models = plain_models(1)
    merged = merged_by(method, base if METHODS[method].base in ("needed", "optional") else None, models, [1.0])
    assert torch.allclose(merged, models[0].flatten(), rtol=0, atol=3e-7)


# Election and normalisation.


@pytest.mark.parametrize("method", ["ties", "dare_ties", "breadcrumbs_ties", "della"])
def test_a_sum_of_zero_elects_plus(method: str) -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    chosen = MergeSettings(normalize=False)
    assert merged_by(method, zero, [one, -one], [0.5, 0.5], settings=chosen).tolist() == [0.5]
    assert merged_by(method, zero, [-one, one], [0.5, 0.5], settings=chosen).tolist() == [0.5]


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(-2, 2, width=32, allow_subnormal=False), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_normalising_weights_of_both_signs_never_explodes(weights: list[float], seed: int) -> None:
    base, models = plain_models(3, seed=seed)
    largest = max(float((model - base).abs().max()) for model in models)
    for method in NORMALIZED:
        merged = merged_by(method, base, models, weights, settings=MergeSettings(normalize=True))
        # Sum |w| / divisor is at most 10.
        assert float((merged - base.flatten()).abs().max()) <= 10 * largest * 1.001, method


@pytest.mark.parametrize("weight", [1e-30, 1e-44, 1e-45, 1e-48, 1e-300])
@pytest.mark.parametrize("method", ["linear", *NORMALIZED])
def test_normalising_the_smallest_weights_stays_finite(method: str, weight: float) -> None:
    base, models = plain_models(2)
    chosen = MergeSettings(normalize=True)
    for weights in ([weight, weight], [weight, -weight], [0.0, weight]):
        merged = merged_by(method, base if method != "linear" else None, models, weights, settings=chosen)
        assert bool(merged.isfinite().all())


@pytest.mark.parametrize("method", ["linear", "multislerp", "task_arithmetic", "dare_linear", "breadcrumbs"])
def test_weights_that_sum_to_0_are_refused_where_the_sum_divides(method: str) -> None:
    row, ref = METHODS[method], ModelRef(text="zoo:base")
    template = MergeTemplate(
        base=ref if row.needs_base else None,
        host=ref,
        sources={"a": ref, "b": ref},
        method=method,
        settings=MergeSettings(normalize=True),
    )
    weights = {"a": SourceParameters(weight=(1.0, 0.5)), "b": SourceParameters(weight=(1.0, -0.5))}
    with pytest.raises(ConfigError, match=r"weights 0\.5, -0\.5 sum to 0, and .* divides"):
        check_parameters(row, template.recipe(weights))
    without = replace(template, settings=MergeSettings(normalize=False)).recipe(weights)
    check_parameters(row, without)


def test_a_cancelling_average_is_divided_by_a_tenth_of_the_absolute_weights() -> None:
    ones = torch.ones(2)
    assert merged_by("linear", None, [ones * 3, ones], [1.0, -1.0]).tolist() == pytest.approx([10.0, 10.0])


@pytest.mark.parametrize(
    ("method", "weights", "message"),
    [
        ("linear", [0.0, 0.0], "every weight is 0"),
        ("multislerp", [0.0, 0.0], "the weights sum to 0"),
        ("multislerp", [1.0, -1.0], "the weights sum to 0"),
        ("karcher", [0.0, 0.0], "the weights sum to 0"),
        ("karcher", [1.0, -0.5], r"a weight of -0\.5; a Karcher mean takes none below 0"),
    ],
)
def test_a_mean_without_a_sum_of_weights_is_refused(method: str, weights: list[float], message: str) -> None:
    _, models = plain_models(2)
    with pytest.raises(ConfigError, match=message):
        merged_by(method, None, models, weights)


# What is kept.


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_restoring_the_l1_norm_restores_it(method: str) -> None:
    vector = torch.randn(40, 100, generator=torch.Generator().manual_seed(0))
    merged = merged_by(method, torch.zeros(40, 100), [vector], [1.0], [0.3], settings=MergeSettings(rescale="l1"))
    assert 0 < int((merged != 0).sum()) < 2000
    assert float(merged.abs().sum()) == pytest.approx(float(vector.abs().sum()), rel=1e-5)


@pytest.mark.parametrize("method", WITH_DENSITY)
@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("density", [5e-324, 1e-300, 1e-30, 1e-7, 1 - 2**-53])
def test_densities_next_to_0_and_1_stay_finite(method: str, rescale: Rescale, density: float) -> None:
    base, models = plain_models(2)
    merged = merged_by(method, base, models, [1.0, 1.0], [density] * 2, settings=MergeSettings(rescale=rescale))
    assert bool(merged.isfinite().all())


def test_what_the_smallest_probability_keeps_is_scaled_by_the_number_of_draws() -> None:
    keys, halves = np.array([[0, 1]], dtype=np.uint64), np.array([[0, 1 << 8]], dtype=np.uint32)
    limits, factors = mark_kernels.rank_limits(2, 1e-300, 0.0)
    kept = np.zeros((1, 2), dtype=np.bool_)
    mark_kernels.mark_by_rank(keys, halves, limits, kept)
    rows = np.ones((1, 2), dtype=np.float32)
    mark_kernels.scale_by_rank(rows, keys, kept, factors)
    assert kept.tolist() == [[True, False]]
    assert rows.tolist() == [[2.0**24, 1.0]]


@settings(deadline=None, max_examples=50)
@given(
    density=st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.1, 0.9, 0.99])),
    epsilon=st.floats(0, 0.5),
    rescale=st.sampled_from(RESCALES),
)
def test_every_density_of_della_keeps_that_share(density: float, epsilon: float, rescale: Rescale) -> None:
    base, models = torch.zeros(40, 100), plain_models(1, 40, 100)[1]
    merged = merged_by(
        "della_linear", base, models, [1.0], [density], epsilons=[epsilon], settings=MergeSettings(rescale=rescale)
    )
    assert bool(merged.isfinite().all())
    kept = int((merged != 0).sum())
    assert abs(kept - 4000 * density) <= 5 * (4000 * density * (1 - density)) ** 0.5 + 1


def test_della_keeps_the_larger_half_of_a_row_more_often() -> None:
    base, models = torch.zeros(40, 100), plain_models(1, 40, 100)[1]
    merged = merged_by("della_linear", base, models, [1.0], [0.5], epsilons=[0.4]).view(40, 100)
    small = models[0].abs() < models[0].abs().median(dim=1, keepdim=True).values
    assert float((merged != 0)[small].float().mean()) < 0.35
    assert float((merged != 0)[~small].float().mean()) > 0.65


def test_a_gamma_above_what_is_left_keeps_the_smallest() -> None:
    model = torch.arange(1.0, 11.0)
    for gamma, kept in ((0.0, [8, 9, 10]), (0.2, [6, 7, 8]), (0.7, [1, 2, 3]), (0.8, [1, 2, 3]), (1.0, [1, 2, 3])):
        merged = merged_by("breadcrumbs", torch.zeros(10), [model], [1.0], [0.3], gammas=[gamma])
        assert merged[merged != 0].tolist() == kept, gamma


@pytest.mark.parametrize("method", ["dare_linear", "della_linear", "ties"])
@settings(deadline=None, max_examples=50)
@given(low=st.floats(0, 1), high=st.floats(0, 1), epsilon=st.floats(0, 0.5))
def test_what_a_lower_density_keeps_a_higher_one_keeps_too(
    method: str, low: float, high: float, epsilon: float
) -> None:
    low, high = sorted((low, high))
    base, models = torch.zeros(6, 50), plain_models(1, 6, 50)[1]
    # A window that is narrowed at one of the densities only would be another for DELLA.
    epsilon = min(epsilon, low, 1 - low, high, 1 - high)
    kept = [
        merged_by(method, base, models, [1.0], [density], epsilons=[epsilon], settings=MergeSettings(normalize=False))
        != 0
        for density in (low, high)
    ]
    assert not bool((kept[0] & ~kept[1]).any())


# Means on the sphere.


def test_slerp_begins_at_the_base_and_ends_at_the_source() -> None:
    base, models = plain_models(1)
    assert same_bits(merged_by("slerp", base, models, [0.0]), base)
    assert same_bits(merged_by("slerp", base, models, [1.0]), models[0])


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
@pytest.mark.parametrize("factor", [2.0, -2.0])
def test_parallel_and_antiparallel_vectors_are_interpolated_in_a_straight_line(method: str, factor: float) -> None:
    _, (model,) = plain_models(1)
    ends = (model, [model * factor], [0.3]) if method == "slerp" else (None, [model, model * factor], [0.7, 0.3])
    merged = merged_by(method, *ends)
    assert torch.allclose(merged, model.flatten() * (0.7 + 0.3 * factor), rtol=1e-6, atol=0)


def test_a_slerp_of_perpendicular_vectors_of_one_length_keeps_it() -> None:
    first, second = torch.tensor([3.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0, 0.0])
    merged = merged_by("slerp", first, [second], [1 / 3])
    assert merged.tolist() == pytest.approx([3 * 0.75**0.5, 0.0, 1.5, 0.0])


@pytest.mark.parametrize("method", ["nuslerp", "multislerp", "karcher"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999))
def test_a_mean_of_equal_weights_does_not_know_the_order(method: str, seed: int) -> None:
    base, models = plain_models(source_count(method), 6, 8, seed=seed)
    for given_base in (None, base) if METHODS[method].base == "optional" else (None,):
        weights = [0.4] * len(models)
        forth = merged_by(method, given_base, models, weights)
        back = merged_by(method, given_base, models[::-1], weights)
        assert torch.allclose(forth, back, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_a_mean_of_equal_models_is_that_model(method: str) -> None:
    _, (model,) = plain_models(1)
    assert torch.allclose(merged_by(method, None, [model] * 3, [0.2, 0.5, 0.1]), model.flatten(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("row_wise", [False, True])
def test_model_stock_of_equal_sources_is_that_source(row_wise: bool) -> None:
    base, (model,) = plain_models(1)
    merged = merged_by("model_stock", base, [model] * 3, [1.0] * 3, settings=MergeSettings(row_wise=row_wise))
    assert torch.allclose(merged, model.flatten(), rtol=1e-6, atol=1e-6)


def test_model_stock_of_perpendicular_task_vectors_is_the_base() -> None:
    base = torch.tensor([-0.0, 1.0, 2.0, 3.0])
    moved = [base + torch.tensor([1.0, 0.0, 0.0, 0.0]), base + torch.tensor([0.0, 0.0, 1.0, 0.0])]
    assert same_bits(merged_by("model_stock", base, moved, [1.0, 1.0]), base)


# Pieces.


@pytest.mark.parametrize("shape", [(5000,), (70, 70)])
@pytest.mark.parametrize(
    ("method", "rescale", "row_wise"),
    [
        *((name, rescale, False) for name in RESCALED for rescale in RESCALES),
        *((name, "density", False) for name in METHODS if name not in RESCALED),
        *((name, "density", True) for name, row in METHODS.items() if "row_wise" in row.settings),
    ],
)
def test_pieces_make_no_difference_to_a_bit(
    method: str, rescale: Rescale, row_wise: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = METHODS[method]
    n = source_count(method)
    base, models = plain_models(n, *shape)
    chosen = MergeSettings(rescale=rescale, row_wise=row_wise, lambda_=0.9, select_topk=0.4)

    def merged() -> torch.Tensor:
        given_base = base if row.base != "none" else None
        return merged_by(method, given_base, models, [0.8, 0.3][:n], [0.5, 0.2][:n], settings=chosen)

    usual = merged()
    for chunk in (7, 1000, 4096):
        monkeypatch.setattr(task_vector, "CHUNK", chunk)
        if not row.by_inner_products:
            assert same_bits(merged(), usual)
        else:
            # Inner products are summed chunk by chunk.
            assert torch.allclose(merged(), usual, rtol=1e-5, atol=1e-6)


# What is refused before a merge.


def template(
    method: str, *, base: bool = True, n_sources: int = 1, merge_settings: MergeSettings | None = None
) -> MergeTemplate:
    ref = ModelRef(text="zoo:base")
    return MergeTemplate(
        base=ref if base else None,
        host=ref,
        sources={f"s{index}": ref for index in range(n_sources)},
        method=method,
        settings=merge_settings or MergeSettings(),
    )


def test_an_unknown_method_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="'dare_tie'; did you mean 'dare_ties'"):
        get_method(template("dare_tie"))


@pytest.mark.parametrize("method", WITH_BASE)
def test_a_missing_base_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"base: missing; {method} (takes differences|starts) from a base"):
        get_method(template(method, base=False, n_sources=2))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in WITH_BASE])
def test_a_method_that_needs_no_base_is_content_without(method: str) -> None:
    n = source_count(method)
    assert get_method(template(method, base=False, n_sources=n)).name == method


@pytest.mark.parametrize(
    ("method", "n_sources", "message"),
    [
        ("slerp", 2, r"sources: slerp takes exactly 1 besides the base, not 2\."),
        ("nuslerp", 1, r"sources: nuslerp takes exactly 2, not 1\."),
        ("nuslerp", 3, r"sources: nuslerp takes exactly 2, not 3\."),
        ("model_stock", 1, r"sources: model_stock takes at least 2, not 1\."),
        ("passthrough", 2, r"sources: passthrough takes exactly 1, not 2\."),
    ],
)
def test_too_few_or_too_many_sources_are_refused(method: str, n_sources: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method(template(method, n_sources=n_sources))


CHANGED: dict[str, MergeSettings] = {
    "rescale": MergeSettings(rescale="l1"),
    "normalize": MergeSettings(normalize=True),
    "lambda_": MergeSettings(lambda_=0.5),
    "row_wise": MergeSettings(row_wise=True),
    "select_topk": MergeSettings(select_topk=0.5),
    "max_iterations": MergeSettings(max_iterations=3),
    "tolerance": MergeSettings(tolerance=1e-3),
    "threshold": MergeSettings(threshold=0.2),
}


@pytest.mark.parametrize("setting", CHANGED)
@pytest.mark.parametrize("method", METHODS)
def test_a_setting_is_refused_just_where_it_would_be_ignored(method: str, setting: str) -> None:
    asked = template(method, n_sources=source_count(method), merge_settings=CHANGED[setting])
    if setting in METHODS[method].settings:
        assert get_method(asked) is METHODS[method]
    else:
        with pytest.raises(ConfigError, match=rf"settings\.{setting.rstrip('_')}: .* would make no difference"):
            get_method(asked)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parameter", ["weight", "density", "gamma", "epsilon"])
def test_a_number_is_refused_just_where_it_would_be_ignored(method: str, parameter: str) -> None:
    asked = template(method, n_sources=source_count(method))
    numbers = SourceParameters(**{"weight": 1.0, parameter: 0.25})
    recipe = asked.recipe(dict.fromkeys(asked.sources, numbers))
    if parameter in METHODS[method].parameters:
        check_parameters(METHODS[method], recipe)
    else:
        with pytest.raises(ConfigError, match=rf"parameters\.s0\.{parameter}: {method} has no {parameter}"):
            check_parameters(METHODS[method], recipe)


@pytest.mark.parametrize(
    ("method", "setting"), [(name, setting) for name, method in METHODS.items() for setting in sorted(method.settings)]
)
def test_a_setting_that_a_method_takes_changes_its_result(method: str, setting: str) -> None:
    row = METHODS[method]
    n = row.sources[1] or 3
    base, models = plain_models(n)
    # Far apart, so that the Karcher mean of three is not found at once.
    models = [model.roll(index, dims=0) for index, model in enumerate(models)]
    changed = CHANGED[setting]
    if setting == "normalize":
        changed = MergeSettings(normalize=not row.normalize)
    elif setting == "tolerance":
        changed = MergeSettings(tolerance=1.0)
    numbers = ([0.9, 0.5, 0.3][:n], [0.6, 0.7, 0.8][:n])
    given_base = base if row.needs_base else None
    assert not torch.equal(
        merged_by(method, given_base, models, *numbers, settings=changed),
        merged_by(method, given_base, models, *numbers),
    )


def test_nearswap_moves_no_entry_further_than_t() -> None:
    base, models = plain_models(1)
    moved = (merged_by("nearswap", base, models, [0.1]) - base.flatten()).abs()
    wanted = (models[0] - base).flatten().abs().clamp(max=0.1)
    assert torch.allclose(moved, wanted, rtol=0, atol=3e-7)


def test_arcee_fusion_takes_few_entries_and_those_whole() -> None:
    base, models = plain_models(1, 64, 96)
    merged = merged_by("arcee_fusion", base, models, [1.0])
    taken = merged != base.flatten()
    assert 0 < int(taken.sum()) < merged.numel() // 4
    assert torch.allclose(merged[taken], models[0].flatten()[taken], rtol=0, atol=3e-7)
    changes = (models[0] - base).abs().flatten()
    assert float(changes[taken].mean()) > 2 * float(changes.mean())
