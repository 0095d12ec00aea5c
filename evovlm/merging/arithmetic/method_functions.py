"""How each merge method combines one tensor: a function for each row of the table in `methods.py`.

A function returns a `Combination` for one tensor, which `combination.py` computes. Notation: b base, x_i source,
d_i = x_i - b, w_i weight, p_i density. Sources are in the order of their names.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic import spherical
from evovlm.merging.arithmetic.combination import (
    LEAST_DIVISOR,
    Combination,
    DropSteady,
    Election,
    Keep,
    KeepBetween,
    KeepByRank,
    KeepDrawn,
    KeepImportant,
    KeepNear,
    ShareChanges,
    Term,
    keep_drawn,
)
from evovlm.merging.arithmetic.product_kernels import dot
from evovlm.merging.arithmetic.rescaling import rescaled
from evovlm.merging.arithmetic.selection import NOTHING, Cut, draw_key, draw_limit, kept_count
from evovlm.merging.arithmetic.task_vector import TaskVectors
from evovlm.recipes.recipe import MergeSettings, Rescale

LEAST_DENSITY = 2.0**-24
"""The smallest share that a draw of 24 bits can keep; any smaller density above 0 keeps this share."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MethodInputs:
    """One tensor of all models, and the numbers of each source; `normalize` is the setting or the method's default."""

    vectors: TaskVectors
    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gammas: tuple[float, ...]
    epsilons: tuple[float, ...]
    settings: MergeSettings
    normalize: bool


def linear(inputs: MethodInputs) -> Combination:
    """Return sum w_i x_i / sum w_i. Raises ConfigError when every weight is 0."""
    if not any(inputs.weights):
        raise ConfigError("parameters: every weight is 0; an average needs at least one that is not.")
    # Fused, as in mergekit; this is also more exact.
    return replace(_plain_sum(inputs, [Term(index=i, first=w) for i, w in _weighted(inputs)]), fused=True)


def passthrough(inputs: MethodInputs) -> Combination:
    """Return the one source times its weight."""
    return Combination(terms=(Term(index=0, first=inputs.weights[0]),))


def slerp(inputs: MethodInputs) -> Combination:
    """Return the point at t = w on the arc from the base (t = 0) to the source (t = 1)."""
    return _factored(spherical.slerp(inputs.vectors.gram(), t=inputs.weights[0]))


def nuslerp(inputs: MethodInputs) -> Combination:
    """Return the point on the arc between two sources or task vectors, at the second one's share of the weight."""
    weights = (inputs.weights[0], inputs.weights[1])
    if inputs.settings.row_wise:
        return _factored(spherical.nuslerp(inputs.vectors.row_grams(), weights=weights))
    return _factored(spherical.nuslerp(inputs.vectors.gram(), weights=weights))


def multislerp(inputs: MethodInputs) -> Combination:
    """Return the barycentric mean on the sphere of any number of models, or task vectors."""
    if inputs.normalize:
        _check_total(inputs)
    if len(inputs.weights) == 1:
        return Combination(terms=(Term(index=0, first=1.0),))
    gram = inputs.vectors.gram()
    return _factored(spherical.multislerp(gram, weights=inputs.weights, normalize=inputs.normalize))


def karcher(inputs: MethodInputs) -> Combination:
    """Return the Karcher mean of the models' directions, scaled to the weighted mean of their lengths."""
    _check_total(inputs)
    if any(weight < 0 for weight in inputs.weights):
        raise ConfigError(f"parameters: a weight of {min(inputs.weights)}; a Karcher mean takes none below 0.")
    if len(inputs.weights) == 1:
        return Combination(terms=(Term(index=0, first=1.0),))
    settings = inputs.settings
    factors = spherical.karcher(
        inputs.vectors.gram(),
        weights=inputs.weights,
        max_iterations=settings.max_iterations,
        tolerance=settings.tolerance,
    )
    return _factored(factors)


def model_stock(inputs: MethodInputs) -> Combination:
    """Return the base moved towards the sources' mean, less so the more the task vectors differ in direction."""
    vectors = inputs.vectors
    return _factored(spherical.model_stock(vectors.row_grams() if inputs.settings.row_wise else vectors.gram()))


def task_arithmetic(inputs: MethodInputs) -> Combination:
    """Return b + lambda sum w_i d_i."""
    return _plain_sum(inputs, [Term(index=i, first=weight) for i, weight in _weighted(inputs)])


def ties(inputs: MethodInputs) -> Combination:
    """Keep the largest entries by magnitude, elect a sign per entry, average the entries that agree."""
    return _elected_sum(inputs, _terms(inputs, _keep_largest, "none"))


def dare_linear(inputs: MethodInputs) -> Combination:
    """Drop entries at random, rescale the kept ones, add the weighted sum."""
    return _plain_sum(inputs, _terms(inputs, _keep_drawn))


def dare_ties(inputs: MethodInputs) -> Combination:
    """Drop entries at random, rescale the kept ones, elect a sign per entry, add the entries that agree."""
    return _elected_sum(inputs, _terms(inputs, _keep_drawn))


def breadcrumbs(inputs: MethodInputs) -> Combination:
    """Drop the very largest and the smallest entries, add the weighted sum."""
    return _plain_sum(inputs, _terms(inputs, _keep_middle, "none"))


def breadcrumbs_ties(inputs: MethodInputs) -> Combination:
    """Drop the very largest and the smallest entries, elect a sign per entry, add the entries that agree."""
    return _elected_sum(inputs, _terms(inputs, _keep_middle, "none"))


def della(inputs: MethodInputs) -> Combination:
    """Drop entries at random (large ones less often), rescale the others, elect a sign, average those that agree."""
    return _elected_sum(inputs, _terms(inputs, _keep_by_rank))


def della_linear(inputs: MethodInputs) -> Combination:
    """Drop entries at random (large ones less often), rescale the others, add the weighted sum."""
    return _plain_sum(inputs, _terms(inputs, _keep_by_rank))


def sce(inputs: MethodInputs) -> Combination:
    """Select the entries that vary most, weight sources by their squares, erase entries against the sum's sign."""
    vectors, share = inputs.vectors, inputs.settings.select_topk
    k = len(inputs.weights)
    cut = None
    if share < 1:
        order = vectors.variance_order()
        # In float32, as in mergekit: 100 entries at 0.58 are 58, not 57.
        count = int(np.float32(order.count_nonzero()) * np.float32(share))
        if not count:
            return Combination(terms=())
        cut = order.cut(count)
    squares = _squares(vectors, cut)
    total = sum(squares)
    weights = tuple(square / total for square in squares) if total > 0 else (1 / k,) * k
    return Combination(
        terms=tuple(Term(index=i, first=1.0) for i in range(k)),
        election=Election(mix_weights=weights, divisor_weights=weights, least=0.0),
        across=None if cut is None else DropSteady(cut=cut),
    )


def nearswap(inputs: MethodInputs) -> Combination:
    """Move each entry of the base towards the source, by at most t = w."""
    (reach,) = inputs.weights
    terms = (Term(index=0, first=1.0, keep=KeepNear(reach=reach)),) if reach > 0 else ()
    return Combination(terms=terms)


def arcee_fusion(inputs: MethodInputs) -> Combination:
    """Take the source's entries of importance |d| KL(row) from the median + 1.5 (third - first quartile) on."""
    vectors = inputs.vectors
    if not vectors.size:
        return Combination(terms=())
    order = vectors.importance_order()

    def quantile(share: float) -> np.float32:
        above = vectors.size - int(share * (vectors.size - 1))
        found: np.float32 = np.uint32(order.cut(above).bits).view(np.float32)
        return found

    threshold = quantile(0.5) + np.float32(1.5) * (quantile(0.75) - quantile(0.25))
    keep = KeepImportant(row_factors=vectors.divergences(), row_length=vectors.row_length, threshold=threshold)
    return Combination(terms=(Term(index=0, first=1.0, keep=keep),))


def ram(inputs: MethodInputs) -> Combination:
    """Add the changes of each source: those of one source whole, the mean where several change an entry."""
    return Combination(
        terms=tuple(Term(index=index, first=1.0) for index in range(len(inputs.weights))),
        across=ShareChanges(threshold=inputs.settings.threshold),
    )


def _weighted(inputs: MethodInputs) -> list[tuple[int, float]]:
    """Return the index and the weight of each source that contributes."""
    return [
        (index, weight)
        for index, (weight, density) in enumerate(zip(inputs.weights, inputs.densities, strict=True))
        if weight != 0 and density > 0
    ]


def _terms(
    inputs: MethodInputs, keep_of: Callable[[MethodInputs, int], Keep | None], rescale: Rescale | None = None
) -> list[Term]:
    """Return the terms of the sources that contribute, rescaled for the dropped entries.

    `rescale` (None: the setting): by 1 / p, by the ratio of L1 norms, or not at all.
    """
    weights, densities = inputs.weights, inputs.densities
    keeps = {index: keep_of(inputs, index) for index, _ in _weighted(inputs)}
    how = inputs.settings.rescale if rescale is None else rescale
    found = rescaled(inputs.vectors, keeps) if how == "l1" else {}
    terms = []
    for index, keep in keeps.items():
        if index in found:
            terms.append(Term(index=index, first=found[index].ratio, second=weights[index], keep=found[index].keep))
        elif how == "density" and isinstance(keep, KeepDrawn):
            terms.append(Term(index=index, first=weights[index] / max(densities[index], LEAST_DENSITY), keep=keep))
        else:
            terms.append(Term(index=index, first=weights[index], keep=keep))
    return terms


def _keep_drawn(inputs: MethodInputs, index: int) -> Keep | None:
    density = inputs.densities[index]
    if density >= 1:
        return None
    vectors = inputs.vectors
    key = draw_key(vectors.seed, vectors.source_names[index], vectors.name)
    return keep_drawn(key, draw_limit(density))


def _keep_largest(inputs: MethodInputs, index: int) -> Keep | None:
    density, size = inputs.densities[index], inputs.vectors.size
    if density >= 1 or not size:
        return None
    return KeepBetween(low=inputs.vectors.magnitudes(index).cut(kept_count(density, size)), high=NOTHING)


def _keep_middle(inputs: MethodInputs, index: int) -> Keep | None:
    density, size = inputs.densities[index], inputs.vectors.size
    if density >= 1 or not size:
        return None
    kept = int(density * size)
    # If gamma leaves too few entries below it, the smallest are kept (as in mergekit).
    dropped = min(int(inputs.gammas[index] * size), size - kept)
    order = inputs.vectors.magnitudes(index)
    return KeepBetween(low=order.cut(dropped + kept), high=order.cut(dropped))


def _keep_by_rank(inputs: MethodInputs, index: int) -> Keep | None:
    density = inputs.densities[index]
    if density >= 1:
        return None
    vectors = inputs.vectors
    # A window that would exceed [0, 1] is narrowed, so that the mean probability stays the density.
    epsilon = min(inputs.epsilons[index], density, 1 - density)
    return KeepByRank(
        key=draw_key(vectors.seed, vectors.source_names[index], vectors.name),
        row_length=vectors.row_length,
        lowest=density - epsilon,
        reach=2 * epsilon,
        own=inputs.settings.rescale == "density",
    )


def _plain_sum(inputs: MethodInputs, terms: list[Term]) -> Combination:
    divisor = _divisor(inputs.weights) if inputs.normalize else 1.0
    return Combination(
        terms=tuple(terms),
        divisor=divisor,
        lambda_=inputs.settings.lambda_,
        whole_rows=any(isinstance(term.keep, KeepByRank) for term in terms),
    )


def _elected_sum(inputs: MethodInputs, terms: list[Term]) -> Combination:
    weights = tuple(inputs.weights[term.index] for term in terms)
    return Combination(
        terms=tuple(terms),
        election=Election(
            mix_weights=(1.0,) * len(terms),
            divisor_weights=weights if inputs.normalize else None,
            # Weights of one sign cannot cancel.
            least=LEAST_DIVISOR if min(weights, default=0.0) < 0 < max(weights, default=0.0) else 0.0,
        ),
        lambda_=inputs.settings.lambda_,
        whole_rows=any(isinstance(term.keep, KeepByRank) for term in terms),
    )


def _divisor(weights: tuple[float, ...]) -> float:
    """Return sum w_i with a magnitude of at least a tenth of sum |w_i| (0 counts as +); 1 when all weights are 0."""
    # In float32, like the division itself: weights below 7e-46 are 0 there.
    held = np.array(weights, dtype=np.float32)
    total = float(np.sum(held, dtype=np.float32))
    least = LEAST_DIVISOR * float(np.abs(held).sum(dtype=np.float64))
    if np.float32(least) == 0:
        return 1.0
    if abs(total) >= least:
        return total
    return least if total >= 0 else -least


def _check_total(inputs: MethodInputs) -> None:
    if abs(sum(inputs.weights)) < LEAST_DIVISOR * max(abs(weight) for weight in inputs.weights) or not any(
        inputs.weights
    ):
        raise ConfigError(f"parameters: the weights sum to {sum(inputs.weights):g}; a mean needs a sum away from 0.")


def _factored(factors: spherical.Factors) -> Combination:
    """Return the plain sum with these factors, shape (k,), or (rows, k) for one set per row."""
    if factors.ndim == 1:
        return Combination(terms=tuple(Term(index=i, first=float(f)) for i, f in enumerate(factors) if f != 0))
    columns = np.ascontiguousarray(factors.T, dtype=np.float32)
    terms = tuple(Term(index=i, first=1.0, row_factors=column) for i, column in enumerate(columns))
    return Combination(terms=terms, whole_rows=True)


def _squares(vectors: TaskVectors, cut: Cut | None) -> list[float]:
    """Return each source's sum of squares over the kept entries."""
    sums = [0.0] * len(vectors.sources)
    for chunk in vectors.chunks():
        if cut is not None:
            DropSteady(cut=cut).apply(chunk)
        for index, part in enumerate(chunk.parts):
            sums[index] += dot(part, part)
    return sums
