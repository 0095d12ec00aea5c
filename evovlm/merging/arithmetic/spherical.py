"""Means on the sphere as the factors of a plain sum.

Slerp and similar methods rotate and stretch vectors, but their result is a sum of the given vectors, with factors that
follow from the inner products. So they need only a Gram matrix (k x k numbers per tensor): everything here is computed
in float64 from those numbers, and the entries are then combined as in a plain sum.

Every function takes `gram`, shape (..., k, k), and returns factors, shape (..., k).
"""

import numpy as np
import numpy.typing as npt

Factors = npt.NDArray[np.float64]

_SMALL_NORM = 1e-8
_PARALLEL = 0.9995
_SMALL_SUM = 1e-6
_RESOLVED = 1e-7
"""Vectors that cancel to less than this share of their lengths: float64 inner products hold only rounding below it."""
_BEHIND = 1e-4
"""Angle (rad) within which a direction counts as opposite to the mean; factors near there grow as 1 / sine."""


def slerp(gram: Factors, *, t: float) -> Factors:
    """Return the factors of two vectors at `t` along the arc from the first to the second (Shoemake 1985).

    The vectors are not normalised: [sin((1-t) th) a + sin(t th) b] / sin th. Nearly parallel ones (|cos| > 0.9995)
    are interpolated linearly.
    """
    cosine = _cosine(gram, 0, 1, least=_SMALL_NORM)
    return _along_the_arc(cosine, t=t, straight=np.abs(cosine) > _PARALLEL)


def nuslerp(gram: Factors, *, weights: tuple[float, float]) -> Factors:
    """Return the factors of slerp between two vectors, at the second one's share of the weights."""
    total = sum(weights)
    t = weights[1] / total if abs(total) >= _SMALL_SUM else 0.5
    cosine = _cosine(gram, 0, 1, least=1e-7)
    # In float32, in which mergekit computes, 1 - cos^2 is 0 from here on.
    return _along_the_arc(cosine, t=t, straight=1 - cosine**2 <= 2.0**-24)


def multislerp(gram: Factors, *, weights: tuple[float, ...], normalize: bool, eps: float = 1e-8) -> Factors:
    """Return the factors of the barycentric mean: tangents at the normalised mean direction, added and mapped back.

    As in mergekit, the tangent is the projection of the unit vector (no theta / sin theta). Directions that cancel give
    the weighted sum.
    """
    shares = np.array(weights)
    if normalize:
        shares = shares / shares.sum()
    norms = _norms(gram)
    to_unit = 1 / (norms + eps)
    mean = shares * to_unit
    length = _length(gram, mean)
    if length < _RESOLVED * float(np.abs(shares).sum()):
        return shares
    mean = mean / length
    dots = to_unit * (gram @ mean)
    tangent = shares * to_unit - float(shares @ dots) * mean
    angle = _length(gram, tangent) + eps
    turned = mean * np.cos(angle) + tangent * (np.sin(angle) / angle)
    factors: Factors = turned * float(shares @ norms)
    return factors


def karcher(gram: Factors, *, weights: tuple[float, ...], max_iterations: int, tolerance: float) -> Factors:
    """Return the factors of the Karcher (Riemannian) mean of the directions, times the weighted mean length.

    Grove & Karcher 1973, by the usual iteration: the mean of the log maps, then the exp map back. A vector opposite to
    the mean has no log map (no direction leads there) and does not move it.
    """
    tolerance = max(tolerance, _RESOLVED)
    shares = np.array(weights) / sum(weights)
    norms = _norms(gram)
    valid = (norms > tolerance) & (shares > 0)
    if not valid.any():
        return np.zeros_like(shares)
    alphas = np.where(valid, shares, 0.0)
    alphas = alphas / alphas.sum()
    to_unit = np.where(valid, 1 / np.where(valid, norms, 1.0), 0.0)
    mean = alphas * to_unit
    length = _length(gram, mean)
    mean = mean / length if length >= tolerance else np.eye(len(shares))[int(np.argmax(valid))] * to_unit
    for _ in range(max_iterations):
        dots = np.clip(to_unit * (gram @ mean), -1.0, 1.0)
        angles = np.arccos(dots)
        far = valid & (angles >= tolerance) & (angles <= np.pi - _BEHIND)
        stretch = np.where(far, alphas * angles / np.where(far, np.sin(angles), 1.0), 0.0)
        tangent = stretch * to_unit - float(stretch @ dots) * mean
        angle = _length(gram, tangent)
        if angle < tolerance:
            break
        mean = np.cos(angle) * mean + np.sin(angle) / angle * tangent
        length = _length(gram, mean)
        mean = mean / length if length > tolerance else mean
    factors: Factors = mean * float(shares @ norms)
    return factors


def model_stock(gram: Factors) -> Factors:
    """Return the factors of the offsets of k models from their base: t / k each, where t = k c / (1 + (k - 1) c).

    c is the mean cosine of two offsets. Jang et al. 2024, arXiv 2403.19522, equation 7.
    """
    k = gram.shape[-1]
    cosines = [_cosine(gram, i, j, least_product=1e-6) for i in range(k) for j in range(i + 1, k)]
    mean = np.mean(cosines, axis=0)
    divisor = 1 + (k - 1) * mean
    flat = np.abs(divisor) < _SMALL_SUM
    t = np.where(flat, 0.0, k * mean / np.where(flat, 1.0, divisor))
    return np.repeat(t[..., None] / k, k, axis=-1)


def _norms(gram: Factors) -> Factors:
    return np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))


def _length(gram: Factors, factors: Factors) -> float:
    # A square that should be 0 can be slightly negative.
    return float(np.sqrt(max(float(factors @ gram @ factors), 0.0)))


def _cosine(gram: Factors, i: int, j: int, *, least: float = 0.0, least_product: float = 0.0) -> Factors:
    norms = _norms(gram)
    left, right = (np.where(norms[..., index] > least, norms[..., index], 1.0) for index in (i, j))
    cosine: Factors = np.clip(gram[..., i, j] / np.maximum(left * right, max(least_product, 1e-300)), -1.0, 1.0)
    return cosine


def _along_the_arc(cosine: Factors, *, t: float, straight: npt.NDArray[np.bool_]) -> Factors:
    angle = np.arccos(cosine)
    sine = np.where(straight, 1.0, np.sin(angle))
    first = np.where(straight, 1 - t, np.sin((1 - t) * angle) / sine)
    second = np.where(straight, t, np.sin(t * angle) / sine)
    return np.stack([first, second], axis=-1)
