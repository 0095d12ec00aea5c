"""The merge methods: one function and one row of `METHODS` each.

Every sum runs over the sources in the order of their names, in float32; torch itself is not imported, so that the
table can be shown without it. No operation here may fuse a multiplication into an addition (`alpha=`, `addcmul`):
those round differently in the vectorised part and the tail of a loop, hence with the number of threads.

For one tensor: b base, x_i source, d_i = x_i - b, w_i weight, p_i density.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evovlm.errors import ConfigError
from evovlm.recipes.problems import did_you_mean
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge, Rescale

if TYPE_CHECKING:
    from torch import Tensor, dtype

Order = Literal["random", "magnitude"]

CHUNK = 1 << 15
"""Entries worked on at a time: the values in between stay in the cache, and torch starts no threads for so few."""

LEAST_DIVISOR = 0.1
"""A divisor is never nearer to 0 than this share of the sum of the absolute weights."""


LEAST_DENSITY = 2.0**-24
"""The smallest share that a draw of 24 bits can keep; a smaller density above 0 keeps this share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceTensor:
    """One source's part in one tensor.

    `vector` (float32, shape (n,)) is d_i, or x_i where the method has no base; `order` (whole numbers in a float dtype,
    shape (n,)) numbers the entries and those numbered below `limit` are kept; without an order all are.
    """

    vector: Tensor
    weight: float
    density: float
    order: Tensor | None = None
    limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorInputs:
    """One tensor of all models, flat: `base` (float32, shape (n,)) or None, and the sources in the order of names.

    `dtype` is what the result is cast to, at the very end.
    """

    base: Tensor | None
    dtype: dtype
    sources: tuple[SourceTensor, ...]
    rescale: Rescale
    normalize: bool
    lambda_: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the table.

    `parameters` are those a source takes, `settings` those of `MergeSettings` that make a difference, `order` says
    how entries are numbered for dropping, `normalize` is the default. `function` returns the merged tensor,
    new, of shape (n,) and in the dtype asked for.
    """

    name: str
    summary: str
    paper: str
    needs_base: bool
    parameters: tuple[str, ...]
    settings: frozenset[str]
    order: Order | None
    normalize: bool
    function: Callable[[TensorInputs], Tensor]
    min_sources: int = 1


def linear(inputs: TensorInputs) -> Tensor:
    """Return sum w_i x_i / sum w_i; raises ConfigError when every weight is 0, as no model is left then."""
    if not any(source.weight for source in inputs.sources):
        raise ConfigError("parameters: every weight is 0; an average needs at least one that is not.")
    divisor = _divisor([source.weight for source in inputs.sources]) if inputs.normalize else 1.0
    return _in_chunks(
        inputs, lambda start, stop: _total([_scaled(s, s.weight / divisor, start, stop) for s in inputs.sources])
    )


def task_arithmetic(inputs: TensorInputs) -> Tensor:
    """Return b + lambda sum w_i d_i."""
    return _weighted_sum(inputs, rescale="none")


def ties(inputs: TensorInputs) -> Tensor:
    """Keep the largest entries by magnitude, elect a sign per entry, average the entries that agree."""
    return _elected_sum(inputs, rescale="none")


def dare_linear(inputs: TensorInputs) -> Tensor:
    """Drop entries at random, make up for them, add the weighted sum."""
    return _weighted_sum(inputs, rescale=inputs.rescale)


def dare_ties(inputs: TensorInputs) -> Tensor:
    """Drop entries at random, make up for them, elect a sign per entry, add the entries that agree."""
    return _elected_sum(inputs, rescale=inputs.rescale)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="linear",
            summary="weighted average of the models",
            paper="Wortsman et al. 2022, arXiv 2203.05482",
            needs_base=False,
            parameters=("weight",),
            settings=frozenset({"normalize"}),
            order=None,
            normalize=True,
            function=linear,
        ),
        Method(
            name="task_arithmetic",
            summary="base plus the weighted sum of task vectors",
            paper="Ilharco et al. 2023, arXiv 2212.04089",
            needs_base=True,
            parameters=("weight",),
            settings=frozenset({"normalize", "lambda_"}),
            order=None,
            normalize=False,
            function=task_arithmetic,
        ),
        Method(
            name="ties",
            summary="largest entries by magnitude, elected sign, mean of those that agree",
            paper="Yadav et al. 2023, arXiv 2306.01708",
            needs_base=True,
            parameters=("weight", "density"),
            settings=frozenset({"normalize", "lambda_"}),
            order="magnitude",
            normalize=True,
            function=ties,
        ),
        Method(
            name="dare_linear",
            summary="random entries kept and rescaled, weighted sum",
            paper="Yu et al. 2024, arXiv 2311.03099",
            needs_base=True,
            parameters=("weight", "density"),
            settings=frozenset({"rescale", "normalize", "lambda_"}),
            order="random",
            normalize=False,
            function=dare_linear,
        ),
        Method(
            name="dare_ties",
            summary="random entries kept and rescaled, elected sign, sum of those that agree",
            paper="Yu et al. 2024, arXiv 2311.03099; Akiba et al. 2025, arXiv 2403.13187",
            needs_base=True,
            parameters=("weight", "density"),
            settings=frozenset({"rescale", "normalize", "lambda_"}),
            order="random",
            normalize=False,
            function=dare_ties,
        ),
    )
}


def get_method(template: MergeTemplate) -> Method:
    """Return the row for the template's method.

    Raises ConfigError for an unknown method, a missing base, too few sources, or a setting or parameter that the
    method would ignore.
    """
    if template.method not in METHODS:
        raise ConfigError(f"method: unknown method '{template.method}'{did_you_mean(template.method, METHODS)}")
    method = METHODS[template.method]
    if method.needs_base and template.base is None:
        raise ConfigError(f"base: missing; {method.name} takes differences from a base model.")
    if len(template.sources) < method.min_sources:
        raise ConfigError(f"sources: {method.name} needs {method.min_sources}, not {len(template.sources)}.")
    for name in ("rescale", "normalize", "lambda_"):
        given = getattr(template.settings, name)
        if name not in method.settings and given != getattr(MergeSettings(), name):
            raise ConfigError(f"settings.{name.rstrip('_')}: {given} would make no difference to {method.name}.")
    return method


def check_parameters(method: Method, recipe: ParameterMerge) -> None:
    """Raise ConfigError when a source has a density that the method would ignore."""
    for name, numbers in recipe.parameters.items():
        values = numbers.density if isinstance(numbers.density, tuple) else (numbers.density,)
        if "density" not in method.parameters and set(values) != {1.0}:
            raise ConfigError(f"parameters.{name}.density: {method.name} has no density.")


def _weighted_sum(inputs: TensorInputs, *, rescale: Rescale) -> Tensor:
    """Return b + lambda sum_i D_i / divisor, D_i = w_i d_i sparsified and rescaled."""
    base = _base(inputs)
    divisor = _divisor([source.weight for source in inputs.sources]) if inputs.normalize else 1.0
    active = [source for source in inputs.sources if _counts(source)]
    factors = [source.weight * _rescaling(source, rescale) * inputs.lambda_ / divisor for source in active]

    def mixed(start: int, stop: int) -> Tensor:
        mix = _total([_scaled(s, f, start, stop) for s, f in zip(active, factors, strict=True)])
        return mix.add_(base[start:stop])

    return _in_chunks(inputs, mixed) if active else base.to(inputs.dtype, copy=True)


def _elected_sum(inputs: TensorInputs, *, rescale: Rescale) -> Tensor:
    """Return b + lambda mix, where mix sums (normalize: averages) the entries whose sign is that of the sum.

    A sum of 0 elects +; an entry of 0 never counts.
    """
    base = _base(inputs)
    active = [source for source in inputs.sources if _counts(source)]
    weights = [source.weight for source in active]
    factors = [source.weight * _rescaling(source, rescale) for source in active]

    def mixed(start: int, stop: int) -> Tensor:
        # In floats throughout: comparing and masking with booleans takes torch ten times as long.
        parts = [_scaled(s, f, start, stop) for s, f in zip(active, factors, strict=True)]
        elected = _total(parts).sign().add_(0.5).sign_()
        # Turned so that the elected sign is +, the entries that count are those above 0.
        agreeing = [part.mul_(elected).clamp_min_(0) for part in parts]
        mix = _total(agreeing)
        if inputs.normalize:
            mix = mix / _elected_divisor(agreeing, weights)
        mix = mix * elected
        if inputs.lambda_ != 1.0:
            mix.mul_(inputs.lambda_)
        return mix.add_(base[start:stop])

    return _in_chunks(inputs, mixed) if active else base.to(inputs.dtype, copy=True)


def _elected_divisor(agreeing: list[Tensor], weights: list[float]) -> Tensor:
    """Return, per entry, the guarded sum of the weights of the parts that count (those above 0); 1 where none does."""
    counted = [part.sign() for part in agreeing]
    total = _total([mask * weight for mask, weight in zip(counted, weights, strict=True)])
    if min(weights) < 0 < max(weights):
        least = _total([mask * abs(weight) for mask, weight in zip(counted, weights, strict=True)]) * LEAST_DIVISOR
        total = total.abs().maximum(least) * total.sign().add_(0.5).sign_()
    return total.add_(1 - total.sign().abs_())


def _divisor(weights: list[float]) -> float:
    """Return sum w_i, kept away from 0: at least a tenth of sum |w_i| in size (0 counts as +), 1 when all are 0."""
    total = sum(weights)
    least = LEAST_DIVISOR * sum(abs(weight) for weight in weights)
    if least == 0:
        return 1.0
    if abs(total) >= least:
        return total
    return least if total >= 0 else -least


def _counts(source: SourceTensor) -> bool:
    return source.weight != 0 and source.density > 0


def _scaled(source: SourceTensor, factor: float, start: int, stop: int) -> Tensor:
    """Return a new tensor: the chunk's kept entries times `factor`, zeros elsewhere."""
    scaled = source.vector[start:stop] * factor
    if source.order is not None and source.density < 1:
        scaled.mul_(_mask(source.order[start:stop], source.limit))
    return scaled


def _mask(order: Tensor, limit: int) -> Tensor:
    """Return 1 where the whole number is below the limit, 0 elsewhere, in the dtype of `order`."""
    return (limit - order).clamp_(0, 1)


def _rescaling(source: SourceTensor, rescale: Rescale) -> float:
    """Return what makes up for the dropped entries: 1 / p, or the ratio of L1 norms, or 1."""
    if source.order is None or source.density >= 1 or rescale == "none":
        return 1.0
    if rescale == "density":
        return 1.0 / max(source.density, LEAST_DENSITY)
    return _l1_ratio(source.vector, _mask(source.order, source.limit))


def _l1_ratio(vector: Tensor, kept: Tensor) -> float:
    """Return sum |d| / sum |d kept|, 1 when nothing is kept.

    Summed as integers, because a floating-point sum depends on its order, hence on the number of threads.
    """
    magnitudes = vector.abs().double()
    largest = float(magnitudes.max())
    if largest == 0:
        return 1.0
    # Each magnitude in units so small that the largest takes as many bits as a 63-bit sum of n of them can bear.
    bits = 62 - len(vector).bit_length()
    whole = (magnitudes * ((1 << bits) / largest)).long()
    kept_sum = int((whole * kept.long()).sum())
    return int(whole.sum()) / kept_sum if kept_sum else 1.0


def _total(parts: list[Tensor]) -> Tensor:
    """Return the sum from first to last as a new tensor (the part itself when there is only one)."""
    total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    for part in parts[2:]:
        total.add_(part)
    return total


def _base(inputs: TensorInputs) -> Tensor:
    if inputs.base is None:
        raise ConfigError("base: missing; this method takes differences from a base model.")
    return inputs.base


def _in_chunks(inputs: TensorInputs, compute: Callable[[int, int], Tensor]) -> Tensor:
    like = inputs.sources[0].vector
    merged = like.new_empty(len(like), dtype=inputs.dtype)
    for start in range(0, len(like), CHUNK):
        stop = min(start + CHUNK, len(like))
        merged[start:stop] = compute(start, stop)
    return merged
