"""Means on the sphere where directions cancel, coincide or vanish; the rest is in test_methods.py."""

import numpy as np
import numpy.typing as npt
import pytest

from evovlm.merging.arithmetic.spherical import karcher, multislerp

Matrix = npt.NDArray[np.float64]

DIRECTION = np.random.default_rng(0).normal(size=100).astype(np.float32)


def opposites(*scales: float) -> Matrix:
    """Return multiples of one float32 vector, as float32 has them."""
    return np.stack([DIRECTION * np.float32(scale) for scale in scales]).astype(np.float64)


def carried_out(vectors: Matrix, factors: Matrix) -> Matrix:
    return factors @ vectors


@pytest.mark.parametrize("scale", [-1.0, -0.5, -0.3, -2.7])
def test_opposite_directions_of_equal_weight_leave_multislerp_the_weighted_sum(scale: float) -> None:
    vectors = opposites(1.0, scale)
    factors = multislerp(vectors @ vectors.T, weights=(0.5, 0.5), normalize=True)
    assert factors.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.1), (0.1, 0.3)])
@pytest.mark.parametrize("scales", [(1.0, -1.0), (-1.0, 0.5), (-0.3, 0.7), (1.0, -2.7)])
def test_opposite_directions_leave_karcher_the_heavier_one(
    weights: tuple[float, float], scales: tuple[float, float]
) -> None:
    vectors = opposites(*scales)
    factors = karcher(vectors @ vectors.T, weights=weights, max_iterations=10, tolerance=1e-5)
    norms = np.sqrt(np.diagonal(vectors @ vectors.T))
    heavier = 0 if weights[0] >= weights[1] else 1
    length = float(np.array(weights) @ norms) / sum(weights)
    wanted = vectors[heavier] / norms[heavier] * length
    # Factors that cancel against each other would be lost in float32.
    assert np.abs(factors).max() < 10
    assert np.allclose(carried_out(vectors, factors), wanted, rtol=1e-5)


def test_a_vector_of_zeros_that_has_all_the_weight_gives_zeros() -> None:
    vectors = opposites(0.0, 1.0)
    factors = karcher(vectors @ vectors.T, weights=(1.0, 0.0), max_iterations=10, tolerance=1e-5)
    assert carried_out(vectors, factors).tolist() == [0.0] * 100


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1e-300])
def test_no_tolerance_is_too_small_for_equal_directions(tolerance: float) -> None:
    vectors = opposites(1.0, 1.0, 0.0)
    factors = karcher(vectors @ vectors.T, weights=(0.5, 0.5, 0.0), max_iterations=10, tolerance=tolerance)
    assert np.allclose(carried_out(vectors, factors), vectors[0])
