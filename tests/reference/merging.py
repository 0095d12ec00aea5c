"""Every merge method as loops over single entries, written from the papers, and from mergekit where it has the word.

Task vectors, and what decides by the sign of a sum, are float32, as merges are; everything else is float64. Means on
the sphere turn the vectors themselves: angles, log and exp maps entry by entry.

DARE: Yu et al. 2024, algorithm 1. TIES: Yadav et al. 2023, algorithm 1. Breadcrumbs: Davari & Belilovsky 2024, section
3. DELLA: Deep et al. 2024, section 3. Model Stock: Jang et al. 2024, equation 7. SCE: Wan et al. 2024, section 3.3.
Karcher mean: Grove & Karcher 1973. Slerp: Shoemake 1985; its kin as in mergekit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tests.reference.philox import draw24

Vector = Sequence[float]
Parts = list[list[np.float32]]

_ALL_DRAWS = 2**24
_ZERO = np.float32(0)


@dataclass(frozen=True, kw_only=True)
class Given:
    """One tensor of all models, flat and row-major, and what a recipe says; `row_length` entries make a row.

    `keys` are the sources' keys for `draw24`. `base` is None where there is none.
    """

    base: Vector | None
    models: Sequence[Vector]
    weights: Sequence[float]
    densities: Sequence[float]
    gammas: Sequence[float]
    epsilons: Sequence[float]
    keys: Sequence[int]
    row_length: int
    rescale: str
    normalize: bool
    lambda_: float
    row_wise: bool
    select_topk: float
    max_iterations: int
    tolerance: float
    threshold: float

    def task_vectors(self) -> Parts:
        """Return d_i = x_i - b in float32; the models themselves without a base."""
        base = self.base if self.base is not None else [0.0] * len(self.models[0])
        return [[np.float32(x) - np.float32(b) for x, b in zip(model, base, strict=True)] for model in self.models]


# What is kept.


def largest_first(vector: Vector) -> list[int]:
    """Return the indices by falling magnitude, the earlier of two equal ones first."""
    return sorted(range(len(vector)), key=lambda j: (-abs(vector[j]), j))


def keep_largest(vector: Vector, density: float) -> list[bool]:
    """TIES: mark the max(1, int(density n)) entries of largest magnitude."""
    if density <= 0:
        return [False] * len(vector)
    count = len(vector) if density >= 1 else max(1, int(density * len(vector)))
    kept = set(largest_first(vector)[:count])
    return [j in kept for j in range(len(vector))]


def keep_middle(vector: Vector, density: float, gamma: float) -> list[bool]:
    """Breadcrumbs: of n ranks by rising magnitude, mark the int(density n) below the int(gamma n) largest.

    Where fewer than that are left, the int(density n) smallest.
    """
    n = len(vector)
    if density >= 1:
        return [True] * n
    count, outliers = int(density * n), int(gamma * n)
    bottom = max(0, n - count - outliers)
    rising = list(reversed(largest_first(vector)))
    kept = set(rising[bottom : bottom + count])
    return [j in kept for j in range(n)]


def keep_drawn(key: int, density: float, size: int) -> list[bool]:
    """DARE: mark each entry whose uniform number is below the density."""
    return [draw24(key, j) / _ALL_DRAWS < density for j in range(size)]


def rank_probabilities(vector: Vector, row_length: int, density: float, epsilon: float) -> list[float]:
    """DELLA: return each entry's keep probability, which grows with its rank in its row.

    The smallest has density - epsilon, the largest density + epsilon; a row of one entry has the density. Epsilon is
    narrowed where that would leave [0, 1].
    """
    epsilon = min(epsilon, density, 1 - density)
    probabilities = [0.0] * len(vector)
    for begin in range(0, len(vector), row_length):
        row = vector[begin : begin + row_length]
        rising = sorted(range(len(row)), key=lambda j: (abs(row[j]), j))
        for rank, j in enumerate(rising):
            share = rank / (len(row) - 1) if len(row) > 1 else 0.5
            probabilities[begin + j] = (density - epsilon) + 2 * epsilon * share
    return probabilities


# The task-vector family.


def guarded(total: float, absolute: float) -> float:
    """Return the divisor: the sum of weights, not nearer to 0 than a tenth of the sum of absolute weights."""
    if absolute == 0:
        return 1.0
    if abs(total) >= 0.1 * absolute:
        return total
    return 0.1 * absolute if total >= 0 else -0.1 * absolute


def float32_sum(numbers: Sequence[float]) -> float:
    """Return the sum as float32 arithmetic has it, term by term."""
    total = _ZERO
    for number in numbers:
        total = total + np.float32(number)
    return float(total)


def scaled(vector: Sequence[np.float32], kept: Sequence[bool], *factors: float) -> list[np.float32]:
    """Return what is kept times the factors in turn, 0 for the rest."""
    part = []
    for d, keep in zip(vector, kept, strict=True):
        value = d
        for factor in factors:
            value = value * np.float32(factor)
        part.append(value if keep else _ZERO)
    return part


def l1_ratio(vector: Vector, kept: Sequence[bool]) -> float:
    """Return sum |d| / sum |d kept|; 1 where nothing is kept."""
    remaining = math.fsum(abs(float(d)) for d, keep in zip(vector, kept, strict=True) if keep)
    return math.fsum(abs(float(d)) for d in vector) / remaining if remaining else 1.0


def plain_sum(given: Given, parts: Parts) -> list[float]:
    """Return b + lambda sum D_i, divided by the sum of weights where `normalize` says so."""
    divisor = guarded(float32_sum(given.weights), sum(map(abs, given.weights))) if given.normalize else 1.0
    mix = [sum(float(part[j]) for part in parts) / divisor for j in range(len(parts[0]))]
    return added(given.base, [given.lambda_ * m for m in mix])


def elected_sum(given: Given, parts: Parts) -> list[float]:
    """Return b + lambda times the sum of the D_i whose sign is the sum's; divided by their weights' sum if normalised.

    A sum of 0 elects +, and a part of 0 never counts.
    """
    mix = []
    for j in range(len(parts[0])):
        sign = 1 if float32_sum([float(part[j]) for part in parts]) >= 0 else -1
        counted = [i for i, part in enumerate(parts) if part[j] * sign > 0]
        total = sum(float(parts[i][j]) for i in counted)
        if given.normalize:
            weights = [given.weights[i] for i in counted]
            total /= guarded(float32_sum(weights), sum(map(abs, weights)))
        mix.append(given.lambda_ * total)
    return added(given.base, mix)


def added(base: Vector | None, mix: Vector) -> list[float]:
    """Return b + mix, or only the mix without a base."""
    return list(mix) if base is None else [b + m for b, m in zip(base, mix, strict=True)]


def largest_parts(given: Given) -> Parts:
    """Return TIES' trimmed and weighted task vectors."""
    return [
        scaled(d, keep_largest([float(each) for each in d], density), weight)
        for d, weight, density in zip(given.task_vectors(), given.weights, given.densities, strict=True)
    ]


def middle_parts(given: Given) -> Parts:
    """Return breadcrumbs' trimmed and weighted task vectors."""
    return [
        scaled(d, keep_middle([float(each) for each in d], density, gamma), weight)
        for d, weight, density, gamma in zip(
            given.task_vectors(), given.weights, given.densities, given.gammas, strict=True
        )
    ]


def drawn_parts(given: Given) -> Parts:
    """Return DARE's thinned out, rescaled and weighted task vectors."""
    parts = []
    for d, weight, density, key in zip(given.task_vectors(), given.weights, given.densities, given.keys, strict=True):
        kept = keep_drawn(key, density, len(d))
        if given.rescale == "density" and density > 0:
            # 2^-24 is the smallest draw: an entry kept with a lower probability was kept with that one.
            parts.append(scaled(d, kept, weight / max(density, 1 / _ALL_DRAWS)))
        elif given.rescale == "l1":
            parts.append(scaled(d, kept, l1_ratio([float(each) for each in d], kept), weight))
        else:
            parts.append(scaled(d, kept, weight))
    return parts


def ranked_parts(given: Given) -> Parts:
    """Return DELLA's thinned out, rescaled and weighted task vectors; `density` divides by each entry's probability."""
    parts = []
    for d, weight, density, epsilon, key in zip(
        given.task_vectors(), given.weights, given.densities, given.epsilons, given.keys, strict=True
    ):
        vector = [float(each) for each in d]
        if density <= 0 or density >= 1:
            parts.append(scaled(d, [density >= 1] * len(d), weight))
            continue
        probabilities = rank_probabilities(vector, given.row_length, density, epsilon)
        kept = [draw24(key, j) / _ALL_DRAWS < probabilities[j] for j in range(len(d))]
        if given.rescale == "density":
            parts.append(
                [
                    value * np.float32(1 / max(p, 1 / _ALL_DRAWS)) * np.float32(weight) if keep else _ZERO
                    for value, p, keep in zip(d, probabilities, kept, strict=True)
                ]
            )
        elif given.rescale == "l1":
            parts.append(scaled(d, kept, l1_ratio(vector, kept), weight))
        else:
            parts.append(scaled(d, kept, weight))
    return parts


def task_arithmetic(given: Given) -> list[float]:
    """Return b + lambda sum w_i d_i."""
    return plain_sum(
        given,
        [scaled(d, [True] * len(d), weight) for d, weight in zip(given.task_vectors(), given.weights, strict=True)],
    )


def sce(given: Given) -> list[float]:
    """Select, calculate, erase: what varies most, weighted by squares, without what opposes the sum's sign."""
    vectors = [[float(each) for each in d] for d in given.task_vectors()]
    k, n = len(vectors), len(vectors[0])
    selected = [True] * n
    if given.select_topk < 1:
        variances = []
        for j in range(n):
            mean = sum(d[j] for d in vectors) / k
            variances.append(float(np.float32(sum((d[j] - mean) ** 2 for d in vectors) / k)))
        # The count as mergekit has it, in float32.
        count = int(np.float32(sum(variance != 0 for variance in variances)) * np.float32(given.select_topk))
        chosen = set(largest_first(variances)[:count])
        selected = [j in chosen for j in range(n)]
    vectors = [[value if keep else 0.0 for value, keep in zip(d, selected, strict=True)] for d in vectors]
    squares = [sum(value**2 for value in d) for d in vectors]
    weights = [square / sum(squares) for square in squares] if sum(squares) else [1 / k] * k
    mix = []
    for j in range(n):
        sign = 1 if float32_sum([d[j] for d in vectors]) >= 0 else -1
        counted = [i for i in range(k) if vectors[i][j] * sign > 0]
        divisor = sum(weights[i] for i in counted)
        mix.append(sum(weights[i] * vectors[i][j] for i in counted) / divisor if divisor else 0.0)
    return added(given.base, mix)


def nearswap(given: Given) -> list[float]:
    """Return b + min(1, t / |d|) d, with |d| of at least 1e-6."""
    t = given.weights[0]
    (d,) = given.task_vectors()
    return added(given.base, [max(0.0, min(1.0, t / max(abs(float(each)), 1e-6))) * float(each) for each in d])


def softmax(row: Vector) -> list[float]:
    """Return the softmax of a row, with 1e-8 added to each probability."""
    powers = [math.exp(x - max(row)) for x in row]
    return [power / math.fsum(powers) + 1e-8 for power in powers]


def arcee_fusion(given: Given) -> list[float]:
    """Return b + d where |d| KL(softmax(x row) || softmax(b row)) reaches the median + 1.5 interquartile ranges."""
    assert given.base is not None
    (d,), importance = given.task_vectors(), []
    for begin in range(0, len(d), given.row_length):
        row = slice(begin, begin + given.row_length)
        base = given.base[row]
        p, q = softmax([b + float(each) for b, each in zip(base, d[row], strict=True)]), softmax(base)
        divergence = max(0.0, math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
        importance += [abs(each) * np.float32(divergence) for each in d[row]]
    rising = sorted(importance)
    low, middle, high = (rising[int(share * (len(rising) - 1))] for share in (0.25, 0.5, 0.75))
    threshold = middle + np.float32(1.5) * (high - low)
    return added(
        given.base, [float(each) if key >= threshold else 0.0 for each, key in zip(d, importance, strict=True)]
    )


def ram(given: Given) -> list[float]:
    """Return b + the mean of the entries above the threshold, over the sources that have one there."""
    vectors = [[float(each) for each in d] for d in given.task_vectors()]
    mix = []
    for column in zip(*vectors, strict=True):
        changed = [value for value in column if abs(value) > np.float32(given.threshold)]
        mix.append(math.fsum(changed) / len(changed) if changed else 0.0)
    return added(given.base, mix)


# Averages of models.


def linear(given: Given) -> list[float]:
    """Return sum w_i x_i, divided by sum w_i where `normalize` says so."""
    divisor = guarded(float32_sum(given.weights), sum(map(abs, given.weights))) if given.normalize else 1.0
    return [
        sum(w * x[j] for w, x in zip(given.weights, given.models, strict=True)) / divisor
        for j in range(len(given.models[0]))
    ]


def passthrough(given: Given) -> list[float]:
    """Return the one model times its weight."""
    return [given.weights[0] * x for x in given.models[0]]


# Means on the sphere.


def inner(left: Vector, right: Vector) -> float:
    """Return the inner product."""
    return math.fsum(x * y for x, y in zip(left, right, strict=True))


def length(vector: Vector) -> float:
    """Return the Euclidean length."""
    return math.sqrt(inner(vector, vector))


def times(vector: Vector, factor: float) -> list[float]:
    """Return the vector times a number."""
    return [factor * x for x in vector]


def total(vectors: Sequence[Vector]) -> list[float]:
    """Return the sum of vectors."""
    return [math.fsum(column) for column in zip(*vectors, strict=True)]


def clamped(cosine: float) -> float:
    """Return a cosine that rounding has not carried out of [-1, 1]."""
    return max(-1.0, min(1.0, cosine))


def arc(first: Vector, second: Vector, t: float, *, angle: float) -> list[float]:
    """Return [sin((1-t) th) a + sin(t th) b] / sin th."""
    return [
        (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
        for a, b in zip(first, second, strict=True)
    ]


def chord(first: Vector, second: Vector, t: float) -> list[float]:
    """Return (1-t) a + t b."""
    return [(1 - t) * a + t * b for a, b in zip(first, second, strict=True)]


def slerp(given: Given) -> list[float]:
    """Return the point at t, the source's weight, between base and source; a straight line if |cos| > 0.9995."""
    assert given.base is not None
    first, second, t = given.base, given.models[0], given.weights[0]
    units = [times(v, 1 / size if (size := length(v)) > 1e-8 else 1.0) for v in (first, second)]
    cosine = clamped(inner(*units))
    return chord(first, second, t) if abs(cosine) > 0.9995 else arc(first, second, t, angle=math.acos(cosine))


def by_rows(function: Callable[[list[Vector]], list[float]], vectors: Sequence[Vector], size: int) -> list[float]:
    """Return what the function makes of each row of `size` entries, joined."""
    joined: list[float] = []
    for begin in range(0, len(vectors[0]), size):
        joined += function([vector[begin : begin + size] for vector in vectors])
    return joined


def nuslerp(given: Given) -> list[float]:
    """Return the point at the second's share of the weight between two models, or task vectors."""
    together = sum(given.weights)
    t = given.weights[1] / together if abs(together) >= 1e-6 else 0.5

    def between(pair: list[Vector]) -> list[float]:
        first, second = pair
        cosine = clamped(inner(*(times(v, 1 / max(length(v), 1e-7)) for v in pair)))
        # As float32 sees it.
        if 1 - np.float32(cosine) * np.float32(cosine) <= 0:
            return chord(first, second, t)
        return arc(first, second, t, angle=math.acos(cosine))

    vectors = [[float(each) for each in d] for d in given.task_vectors()]
    return added(given.base, by_rows(between, vectors, given.row_length if given.row_wise else len(vectors[0])))


def multislerp(given: Given) -> list[float]:
    """Return the barycentric mean: projections to the plane at the mean direction, added, mapped back (mergekit)."""
    if len(given.models) == 1:
        return list(given.models[0])
    eps = 1e-8
    vectors = [[float(each) for each in d] for d in given.task_vectors()]
    shares = [weight / sum(given.weights) for weight in given.weights] if given.normalize else given.weights
    norms = [length(v) for v in vectors]
    units = [times(v, 1 / (norm + eps)) for v, norm in zip(vectors, norms, strict=True)]
    mean = total([times(u, share) for u, share in zip(units, shares, strict=True)])
    if length(mean) < 1e-7 * sum(map(abs, shares)):
        # Opposite directions cancel, as well as float32 vectors can.
        return added(given.base, total([times(v, share) for v, share in zip(vectors, shares, strict=True)]))
    mean = times(mean, 1 / length(mean))
    tangents = [total([unit, times(mean, -inner(unit, mean))]) for unit in units]
    tangent = total([times(each, share) for each, share in zip(tangents, shares, strict=True)])
    angle = length(tangent) + eps
    turned = total([times(mean, math.cos(angle)), times(tangent, math.sin(angle) / angle)])
    return added(given.base, times(turned, sum(share * norm for share, norm in zip(shares, norms, strict=True))))


def karcher(given: Given) -> list[float]:
    """Return the Riemannian mean of the directions by weight, times the weighted mean of the lengths."""
    if len(given.models) == 1:
        return list(given.models[0])
    shares = [weight / sum(given.weights) for weight in given.weights]
    norms = [length(model) for model in given.models]
    valid = [i for i, norm in enumerate(norms) if norm > given.tolerance and shares[i] > 0]
    if not valid:
        return [0.0] * len(given.models[0])
    alphas = {i: shares[i] / sum(shares[j] for j in valid) for i in valid}
    units = {i: times(given.models[i], 1 / norms[i]) for i in valid}
    mean = total([times(units[i], alphas[i]) for i in valid])
    mean = units[valid[0]] if length(mean) < given.tolerance else times(mean, 1 / length(mean))
    for _ in range(given.max_iterations):
        logs = []
        for i in valid:
            across = total([units[i], times(mean, -inner(units[i], mean))])
            # Both the angle and its sine, without the loss that acos has near 0 and pi.
            angle = math.atan2(length(across), inner(units[i], mean))
            # No direction leads to what lies right behind: the log map ends there.
            if given.tolerance <= angle <= math.pi - 1e-4:
                logs.append(times(across, alphas[i] * angle / length(across)))
        tangent = total([[0.0] * len(mean), *logs])
        angle = length(tangent)
        if angle < given.tolerance:
            break
        mean = total([times(mean, math.cos(angle)), times(tangent, math.sin(angle) / angle)])
        mean = times(mean, 1 / length(mean))
    return times(mean, sum(share * norm for share, norm in zip(shares, norms, strict=True)))


def model_stock(given: Given) -> list[float]:
    """Return t mean + (1 - t) b with t = k c / (1 + (k - 1) c), c the mean cosine of two task vectors."""
    k = len(given.models)

    def stocked(vectors: list[Vector]) -> list[float]:
        cosines = [
            clamped(inner(left, right) / max(length(left) * length(right), 1e-6))
            for left, right in combinations(vectors, 2)
        ]
        cosine = sum(cosines) / len(cosines)
        divisor = 1 + (k - 1) * cosine
        t = k * cosine / divisor if abs(divisor) >= 1e-6 else 0.0
        return times(total(vectors), t / k)

    vectors = [[float(each) for each in d] for d in given.task_vectors()]
    return added(given.base, by_rows(stocked, vectors, given.row_length if given.row_wise else len(vectors[0])))


TWINS: Mapping[str, Callable[[Given], list[float]]] = {
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "task_arithmetic": task_arithmetic,
    "ties": lambda given: elected_sum(given, largest_parts(given)),
    "dare_linear": lambda given: plain_sum(given, drawn_parts(given)),
    "dare_ties": lambda given: elected_sum(given, drawn_parts(given)),
    "breadcrumbs": lambda given: plain_sum(given, middle_parts(given)),
    "breadcrumbs_ties": lambda given: elected_sum(given, middle_parts(given)),
    "della": lambda given: elected_sum(given, ranked_parts(given)),
    "della_linear": lambda given: plain_sum(given, ranked_parts(given)),
    "model_stock": model_stock,
    "sce": sce,
    "nearswap": nearswap,
    "arcee_fusion": arcee_fusion,
    "ram": ram,
    "passthrough": passthrough,
}
"""The twin of each method, by its name."""
