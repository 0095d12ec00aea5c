"""The merge methods as loops over single entries, written from the papers.

DARE: Yu et al. 2024, algorithm 1. TIES: Yadav et al. 2023, algorithm 1. Keep masks are given, so that the loops need
no random numbers: `kept[i][j]` says whether source i keeps entry j.
"""

from collections.abc import Sequence

import numpy as np

Vector = Sequence[float]


def keep_largest(vector: Vector, density: float) -> list[bool]:
    """Mark the max(1, int(density n)) entries of largest magnitude, the earlier of two equal ones first."""
    if density <= 0:
        return [False] * len(vector)
    count = len(vector) if density >= 1 else max(1, int(density * len(vector)))
    ranked = sorted(range(len(vector)), key=lambda j: (-abs(vector[j]), j))
    return [j in set(ranked[:count]) for j in range(len(vector))]


def rescaling(vector: Vector, kept: Sequence[bool], density: float, rescale: str) -> float:
    """Return the factor that makes up for dropped entries."""
    if density >= 1 or rescale == "none":
        return 1.0
    if rescale == "density":
        return 1.0 / density
    remaining = sum(abs(d) for d, keep in zip(vector, kept, strict=True) if keep)
    return sum(abs(d) for d in vector) / remaining if remaining else 1.0


def guarded(total: float, absolute: float) -> float:
    """Return the divisor: the sum of weights, not nearer to 0 than a tenth of the sum of absolute weights."""
    if absolute == 0:
        return 1.0
    if abs(total) >= 0.1 * absolute:
        return total
    return 0.1 * absolute if total >= 0 else -0.1 * absolute


def linear(models: Sequence[Vector], weights: Sequence[float], *, normalize: bool = True) -> list[float]:
    """Return the weighted average (or sum) of models."""
    divisor = guarded(sum(weights), sum(map(abs, weights))) if normalize else 1.0
    return [sum(w * x[j] for w, x in zip(weights, models, strict=True)) / divisor for j in range(len(models[0]))]


def task_vector_merge(
    base: Vector,
    models: Sequence[Vector],
    weights: Sequence[float],
    kept: Sequence[Sequence[bool]],
    factors: Sequence[float],
    *,
    elect: bool,
    normalize: bool,
    lambda_: float,
) -> list[float]:
    """Return b + lambda mix; `factors` are the rescalings, `elect` turns on TIES' sign election.

    Where parts, or the weights of those that count, cancel on paper, the sign is that of the float32 sum, so both are
    float32 here too.
    """
    merged = []
    for j, b in enumerate(base):
        parts = [
            (np.float32(x[j]) - np.float32(b)) * np.float32(w * factor) if keep[j] else np.float32(0)
            for w, x, keep, factor in zip(weights, models, kept, factors, strict=True)
        ]
        total = sum(parts, start=np.float32(0))
        counted = list(range(len(parts)))
        sum_of_weights = sum(weights)
        if elect:
            sign = 1 if total >= 0 else -1
            counted = [i for i in counted if parts[i] * sign > 0]
            sum_of_weights = float(sum((np.float32(weights[i]) for i in counted), start=np.float32(0)))
        mix = sum(float(parts[i]) for i in counted)
        if normalize:
            mix /= guarded(sum_of_weights, sum(abs(weights[i]) for i in counted))
        merged.append(b + lambda_ * mix)
    return merged
