"""What every row of OPTIMIZERS must hold, and what CMA-ES alone must."""

import math
from collections.abc import Callable, Sequence

import cma
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.recipes.candidate import Genome
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import DEFAULT_SIGMA, Optimizer, default_population

KINDS = sorted(OPTIMIZERS)


def middle(dim: int) -> Genome:
    return np.full(dim, 0.5)


def closeness(target: Genome) -> Callable[[Genome], float]:
    return lambda genome: -float(np.sum((genome - target) ** 2))


def run(optimizer: Optimizer, fitness: Callable[[Genome], float], *, generations: int) -> list[Genome]:
    asked: list[Genome] = []
    for _ in range(generations):
        genomes = optimizer.ask()
        asked += genomes
        optimizer.tell(genomes, [fitness(genome) for genome in genomes])
    return asked


def global_state() -> str:
    return str([part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state(legacy=True)])


def equal(first: Sequence[Genome], second: Sequence[Genome]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@given(dim=st.integers(1, 12), seed=st.integers(0, 2**63), slope=st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_every_genome_and_the_mean_lie_in_the_unit_cube(kind: str, dim: int, seed: int, slope: float) -> None:
    optimizer = OPTIMIZERS[kind](middle(dim), seed=seed)
    for genome in [*run(optimizer, lambda genome: slope * float(genome.sum()), generations=6), optimizer.mean]:
        assert genome.shape == (dim,)
        assert genome.dtype == np.float64
        assert np.all((genome >= 0) & (genome <= 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_generation_has_the_default_population_unless_one_is_given(kind: str) -> None:
    assert len(OPTIMIZERS[kind](middle(6), seed=0).ask()) == 9
    chosen = OPTIMIZERS[kind](middle(6), seed=0, population=5)
    assert chosen.population == len(chosen.ask()) == 5


@pytest.mark.parametrize(("dim", "population"), [(1, 4), (4, 8), (6, 9), (204, 19)])
def test_the_default_population_is_4_plus_3_ln_n(dim: int, population: int) -> None:
    assert default_population(dim) == 4 + math.floor(3 * math.log(dim)) == population


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_asks_for_the_same_genomes_and_another_for_others(kind: str) -> None:
    def asked(seed: int) -> list[Genome]:
        return run(OPTIMIZERS[kind](middle(3), seed=seed), closeness(np.array([0.2, 0.9, 0.5])), generations=8)

    assert equal(asked(7), asked(7))
    assert not equal(asked(7), asked(8))


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_s_global_stream_is_neither_used_nor_disturbed(kind: str) -> None:
    fitness = closeness(np.array([0.3, 0.6]))
    np.random.seed(1)
    before = global_state()
    undisturbed = run(OPTIMIZERS[kind](middle(2), seed=5), fitness, generations=6)
    assert global_state() == before

    optimizer = OPTIMIZERS[kind](middle(2), seed=5)
    disturbed: list[Genome] = []
    for generation in range(6):
        np.random.seed(generation)
        disturbed += run(optimizer, fitness, generations=1)
    assert equal(undisturbed, disturbed)


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_two_interleaved_searches_do_not_disturb_one_another(first: str, second: str) -> None:
    target = closeness(np.array([0.1, 0.8, 0.4]))
    alone = [
        run(OPTIMIZERS[kind](middle(3), seed=seed), target, generations=7) for kind, seed in ((first, 1), (second, 2))
    ]
    pair = [OPTIMIZERS[first](middle(3), seed=1), OPTIMIZERS[second](middle(3), seed=2)]
    together: list[list[Genome]] = [[], []]
    for _ in range(7):
        asked = [optimizer.ask() for optimizer in pair]
        for genomes, optimizer, told in zip(asked, pair, together, strict=True):
            optimizer.tell(genomes, [target(genome) for genome in genomes])
            told += genomes
    assert equal(alone[0], together[0])
    assert equal(alone[1], together[1])


@pytest.mark.parametrize("kind", KINDS)
def test_changing_an_asked_genome_changes_nothing(kind: str) -> None:
    spoilt = OPTIMIZERS[kind](middle(4), seed=3)
    for genome in spoilt.ask():
        genome[:] = -1.0
    spoilt.mean[:] = 7.0
    assert np.all((spoilt.mean >= 0) & (spoilt.mean <= 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_equal_fitnesses_for_many_generations_are_no_obstacle(kind: str, dim: int) -> None:
    asked = run(OPTIMIZERS[kind](middle(dim), seed=0), lambda _: 0.0, generations=40)
    assert all(np.all(np.isfinite(genome)) for genome in asked)


@pytest.mark.parametrize("target", [[0.3, 0.7, 0.2], [1.0, 1.0, 0.0]], ids=["inside", "corner"])
def test_cma_finds_the_highest_point(target: list[float]) -> None:
    optimizer = OPTIMIZERS["cma"](middle(3), seed=0)
    run(optimizer, closeness(np.array(target)), generations=60)
    assert np.abs(optimizer.mean - target).max() < 0.01


def test_cma_in_one_dimension_finds_the_highest_point() -> None:
    optimizer = OPTIMIZERS["cma"](middle(1), seed=0)
    run(optimizer, closeness(np.array([0.8])), generations=60)
    assert abs(float(optimizer.mean[0]) - 0.8) < 0.01


def test_cma_starts_around_the_initial_point_with_the_paper_s_step() -> None:
    first = np.array([genome for seed in range(200) for genome in CmaEs(middle(2), seed=seed).ask()])
    assert np.abs(first.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(first.std(axis=0) - DEFAULT_SIGMA).max() < 0.02


def test_cma_moves_as_pycma_does_when_no_bound_is_met() -> None:
    """A twin: pycma alone, with the same stream of normal draws and the sign turned by hand."""
    from evovlm.seeding import generator

    draws = generator("cma", 11)
    twin = cma.CMAEvolutionStrategy(
        [0.5] * 3,
        0.01,
        {"popsize": 7, "randn": lambda rows, cols: draws.standard_normal((rows, cols)), "seed": np.nan, "verbose": -9},
    )
    ours = CmaEs(middle(3), seed=11, population=7, sigma=0.01)
    target = closeness(np.array([0.52, 0.49, 0.5]))
    for _ in range(25):
        theirs = twin.ask()
        asked = ours.ask()
        assert equal(theirs, asked)
        twin.tell(theirs, [-target(genome) for genome in theirs])
        ours.tell(asked, [target(genome) for genome in asked])
    assert np.array_equal(np.asarray(twin.mean), ours.mean)


def test_only_the_ranking_of_fitnesses_counts_for_cma() -> None:
    target = closeness(np.array([0.2, 0.6]))
    plain = run(CmaEs(middle(2), seed=4), target, generations=10)
    curved = run(CmaEs(middle(2), seed=4), lambda genome: math.exp(5 * target(genome)), generations=10)
    assert equal(plain, curved)


def test_cma_refuses_genomes_that_it_did_not_ask_for() -> None:
    optimizer = CmaEs(middle(2), seed=0)
    genomes = optimizer.ask()
    with pytest.raises(ValueError, match="last ask"):
        optimizer.tell(genomes[::-1], [0.0] * len(genomes))


def test_random_search_keeps_its_best_genome_as_its_mean() -> None:
    optimizer = OPTIMIZERS["random"](middle(2), seed=0)
    assert np.array_equal(optimizer.mean, middle(2))
    asked = run(optimizer, closeness(np.array([0.9, 0.1])), generations=5)
    assert np.array_equal(optimizer.mean, max(asked, key=closeness(np.array([0.9, 0.1]))))
