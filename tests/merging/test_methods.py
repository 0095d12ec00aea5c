"""The arithmetic of each method against its slow twin, and the properties all share."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.errors import ConfigError
from evovlm.merging import methods
from evovlm.merging.methods import METHODS, Method, SourceTensor, TensorInputs, get_method
from evovlm.merging.selection import magnitude_limit, magnitude_order, random_limit, random_order
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, Rescale
from tests.reference import merging as slow

SIZE = 24
WITH_BASE = [name for name, method in METHODS.items() if method.needs_base]


def make_inputs(
    method: Method,
    base: torch.Tensor,
    models: Sequence[torch.Tensor],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    rescale: Rescale = "density",
    normalize: bool | None = None,
    lambda_: float = 1.0,
) -> TensorInputs:
    sources = []
    for index, (model, weight, density) in enumerate(zip(models, weights, densities, strict=True)):
        vector = model - base if method.needs_base else model.clone()
        order, limit = None, 0
        if method.order == "random":
            order, limit = random_order(0, str(index), "t", size=len(base)), random_limit(density, len(base))
        if method.order == "magnitude":
            order, limit = magnitude_order(vector), magnitude_limit(density, len(base))
        sources.append(SourceTensor(vector=vector, weight=weight, density=density, order=order, limit=limit))
    return TensorInputs(
        base=base if method.needs_base else None,
        dtype=torch.float32,
        sources=tuple(sources),
        rescale=rescale,
        normalize=method.normalize if normalize is None else normalize,
        lambda_=lambda_,
    )


def slow_twin(name: str, inputs: TensorInputs, base: torch.Tensor, models: Sequence[torch.Tensor]) -> list[float]:
    method = METHODS[name]
    weights = [source.weight for source in inputs.sources]
    plain = [model.tolist() for model in models]
    if name == "linear":
        return slow.linear(plain, weights, normalize=inputs.normalize)
    kept, factors = [], []
    for source in inputs.sources:
        vector = source.vector.tolist()
        mask = [True] * len(vector)
        if method.order == "magnitude":
            mask = slow.keep_largest(vector, source.density)
        if method.order == "random":
            assert source.order is not None
            mask = [draw / 2**24 < source.density for draw in source.order.tolist()]
        kept.append(mask)
        dropping = method.order == "random" and source.density > 0
        factors.append(slow.rescaling(vector, mask, source.density, inputs.rescale) if dropping else 1.0)
    return slow.task_vector_merge(
        base.tolist(),
        plain,
        weights,
        kept,
        factors,
        elect=name.endswith("ties"),
        normalize=inputs.normalize,
        lambda_=inputs.lambda_,
    )


def draw_models(seed: int, n_models: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(SIZE, generator=generator).to(dtype)
    models = [(base.float() + 0.3 * torch.randn(SIZE, generator=generator)).to(dtype) for _ in range(n_models)]
    return base.float(), [model.float() for model in models]


@pytest.mark.parametrize("name", METHODS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_method_agrees_with_its_slow_twin(name: str, data: st.DataObject) -> None:
    n_models = data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    base, models = draw_models(data.draw(st.integers(0, 999)), n_models, dtype)
    # Whole tenths: two sums that are equal on paper stay equal in float32 often enough to meet the ties' rule.
    weights = [data.draw(st.integers(-15, 15)) / 10 for _ in range(n_models)]
    densities = [data.draw(st.integers(0, 10)) / 10 for _ in range(n_models)]
    method = METHODS[name]
    if name == "linear":
        weights[0] = weights[0] or 1.0
    if "density" not in method.parameters:
        densities = [1.0] * n_models
    inputs = make_inputs(
        method,
        base,
        models,
        weights,
        densities,
        rescale=data.draw(st.sampled_from(["density", "l1", "none"])),
        normalize=data.draw(st.booleans()),
        lambda_=data.draw(st.sampled_from([1.0, 0.7, -1.3])),
    )
    merged = method.function(inputs)
    wanted = torch.tensor(slow_twin(name, inputs, base, models))
    assert torch.allclose(merged, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_chunks_make_no_difference_to_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS[name]
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(5000, generator=generator)
    models = [base + torch.randn(5000, generator=generator) for _ in range(3)]
    for rescale in ("density", "l1"):
        inputs = make_inputs(method, base, models, [0.3, 0.9, -0.4], [0.5, 0.7, 0.2], rescale=rescale, lambda_=0.9)
        whole = method.function(inputs)
        for chunk in (7, 1024, 1 << 20):
            monkeypatch.setattr(methods, "CHUNK", chunk)
            assert torch.equal(method.function(inputs), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("name", WITH_BASE)
def test_no_weight_gives_the_base(name: str) -> None:
    base, models = draw_models(1, 2, torch.float32)
    base[0] = -0.0
    merged = METHODS[name].function(make_inputs(METHODS[name], base, models, [0.0, 0.0], [0.5, 1.0]))
    assert torch.equal(merged.view(torch.int32), base.view(torch.int32))
    assert merged.data_ptr() != base.data_ptr()


@pytest.mark.parametrize("name", [name for name in WITH_BASE if "density" in METHODS[name].parameters])
@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_density_0_gives_the_base(name: str, rescale: Rescale) -> None:
    base, models = draw_models(1, 2, torch.float32)
    inputs = make_inputs(METHODS[name], base, models, [0.7, 0.4], [0.0, 0.0], rescale=rescale)
    assert torch.equal(METHODS[name].function(inputs), base)


def test_density_1_drops_nothing() -> None:
    base, models = draw_models(1, 2, torch.float32)
    for dropping, whole in (("dare_linear", "task_arithmetic"),):
        left = METHODS[dropping].function(make_inputs(METHODS[dropping], base, models, [0.7, 0.4], [1.0, 1.0]))
        right = METHODS[whole].function(make_inputs(METHODS[whole], base, models, [0.7, 0.4], [1.0, 1.0]))
        assert torch.equal(left, right)


def test_a_sum_of_zero_elects_plus() -> None:
    base = torch.zeros(1)
    merged = methods.dare_ties(
        make_inputs(METHODS["dare_ties"], base, [torch.ones(1), -torch.ones(1)], [0.5, 0.5], [1.0, 1.0])
    )
    assert merged.tolist() == [0.5]


def test_a_tiny_density_keeps_the_numbers_finite() -> None:
    base, models = draw_models(1, 2, torch.float32)
    inputs = make_inputs(METHODS["dare_ties"], base, models, [1.0, 1.0], [5e-324, 1e-30])
    assert bool(METHODS["dare_ties"].function(inputs).isfinite().all())


@given(data=st.data())
@settings(deadline=None)
def test_normalizing_weights_of_both_signs_never_explodes(data: st.DataObject) -> None:
    base, models = draw_models(data.draw(st.integers(0, 99)), 3, torch.float32)
    weights = [data.draw(st.floats(-2, 2)) for _ in range(3)]
    largest = max(float((model - base).abs().max()) for model in models)
    for name in ("task_arithmetic", "ties", "dare_linear", "dare_ties"):
        merged = METHODS[name].function(make_inputs(METHODS[name], base, models, weights, [1.0] * 3, normalize=True))
        # Sum |w| / divisor is at most 10.
        assert float((merged - base).abs().max()) <= 10 * largest * 1.001


def test_a_cancelling_average_is_divided_by_a_tenth_of_the_absolute_weights() -> None:
    ones = torch.ones(2)
    merged = methods.linear(make_inputs(METHODS["linear"], ones, [ones * 3, ones], [1.0, -1.0], [1.0, 1.0]))
    assert merged.tolist() == pytest.approx([10.0, 10.0])


def test_an_average_without_weights_is_an_error() -> None:
    ones = torch.ones(2)
    with pytest.raises(ConfigError, match="every weight is 0"):
        methods.linear(make_inputs(METHODS["linear"], ones, [ones], [0.0], [1.0]))


def test_restoring_the_l1_norm_restores_it() -> None:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(4000, generator=generator)
    zeros = torch.zeros(4000)
    merged = methods.dare_linear(make_inputs(METHODS["dare_linear"], zeros, [vector], [1.0], [0.3], rescale="l1"))
    assert float(merged.abs().sum()) == pytest.approx(float(vector.abs().sum()), rel=1e-5)


def template(method: str, *, base: bool = True, merge_settings: MergeSettings | None = None) -> MergeTemplate:
    ref = ModelRef(text="zoo:base")
    return MergeTemplate(
        base=ref if base else None,
        host=ref,
        sources={"a": ref},
        method=method,
        settings=merge_settings or MergeSettings(),
    )


def test_an_unknown_method_is_named_with_the_closest_one() -> None:
    with pytest.raises(ConfigError, match="'dare_tie'; did you mean 'dare_ties'"):
        get_method(template("dare_tie"))


def test_a_missing_base_is_an_error() -> None:
    with pytest.raises(ConfigError, match="base: missing"):
        get_method(template("ties", base=False))


@pytest.mark.parametrize(
    ("method", "merge_settings", "key"),
    [
        ("ties", MergeSettings(rescale="l1"), r"settings\.rescale"),
        ("linear", MergeSettings(lambda_=0.5), r"settings\.lambda: 0.5"),
    ],
)
def test_a_setting_that_would_be_ignored_is_an_error(method: str, merge_settings: MergeSettings, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        get_method(template(method, merge_settings=merge_settings))
