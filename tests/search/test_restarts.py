"""CMA-ES that starts anew: when it does, with how many, and which start its mean is of."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from evovlm.recipes.candidate import Genome
from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import Feedback, Start
from evovlm.search.restarts import CmaEsBipop, CmaEsIpop

BOTH = [CmaEsIpop, CmaEsBipop]


def rastrigin(genome: Genome) -> float:
    """Return 0 at 0.6 everywhere, below 0 elsewhere, with a local optimum every tenth."""
    x = (genome - 0.6) * 10.0
    return -float(np.sum(x**2 + 10.0 * (1.0 - np.cos(2.0 * math.pi * x))))


def starts(
    optimizer: CmaEsIpop | CmaEsBipop, fitness: Callable[[Genome], float], *, evaluations: int
) -> list[tuple[int, float, int]]:
    """Return of each start its population, its first step size, and what it took."""
    found: list[tuple[int, float, int]] = []
    spent, number = 0, -1.0
    while spent < evaluations:
        figures = optimizer.figures
        if figures["restarts"] != number:
            number = figures["restarts"]
            found.append((optimizer.population, figures["sigma"], 0))
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=fitness(genome)) for genome in genomes])
        spent += len(genomes)
        population, sigma, took = found[-1]
        found[-1] = (population, sigma, took + len(genomes))
    return found


@pytest.mark.parametrize("kind", BOTH)
def test_the_first_start_is_plain_cma(kind: type[CmaEsIpop | CmaEsBipop]) -> None:
    restarted, plain = kind(Start(initial=np.full(3, 0.4), seed=5)), CmaEs(Start(initial=np.full(3, 0.4), seed=5))
    for _ in range(20):
        asked, expected = restarted.ask(), plain.ask()
        assert all(map(np.array_equal, asked, expected))
        told = [Feedback(fitness=rastrigin(genome)) for genome in asked]
        restarted.tell(asked, told)
        plain.tell(expected, told)
    assert np.array_equal(restarted.mean, plain.mean)


def test_ipop_doubles_its_population_with_each_start() -> None:
    found = starts(CmaEsIpop(Start(initial=np.full(2, 0.1), seed=1)), rastrigin, evaluations=4000)
    assert [population for population, _, _ in found] == [6 * 2**number for number in range(len(found))]
    assert len(found) > 3
    assert all(sigma == pytest.approx(1 / 6) for _, sigma, _ in found)


def test_bipop_takes_turns_and_spends_about_as_much_on_small_starts_as_on_large_ones() -> None:
    found = starts(CmaEsBipop(Start(initial=np.full(2, 0.1), seed=1)), rastrigin, evaluations=12000)
    spent = {False: 0, True: 0}
    n_large = 0
    for number, (population, sigma, took) in enumerate(found):
        large = number > 0 and spent[False] >= spent[True]
        if large:
            n_large += 1
            assert population == 6 * 2**n_large
            assert sigma == pytest.approx(1 / 6)
        elif number:
            assert 6 <= population <= 6 * 2**n_large / 2
            assert 1 / 600 <= sigma <= 1 / 6
            # The generation in which it passes half of it is finished.
            assert took < spent[True] / 2 + population
        spent[large] += took
    assert n_large >= 3
    assert len(found) > n_large + 1


@pytest.mark.parametrize("kind", BOTH)
def test_restarts_leave_local_optima_that_hold_plain_cma(kind: type[CmaEsIpop | CmaEsBipop]) -> None:
    restarted, plain = kind(Start(initial=np.full(2, 0.1), seed=4)), CmaEs(Start(initial=np.full(2, 0.1), seed=4))
    starts(restarted, rastrigin, evaluations=5000)
    for _ in range(5000 // plain.population):
        genomes = plain.ask()
        plain.tell(genomes, [Feedback(fitness=rastrigin(genome)) for genome in genomes])
    assert rastrigin(plain.mean) < -0.5
    assert rastrigin(restarted.mean) > -0.01


def test_the_mean_stays_that_of_an_old_start_until_a_new_one_does_better() -> None:
    optimizer = CmaEsIpop(Start(initial=np.full(2, 0.6), seed=0))
    while optimizer.figures["restarts"] == 0:
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=rastrigin(genome)) for genome in genomes])
    found = optimizer.mean
    assert np.abs(found - 0.6).max() < 1e-3
    genomes = optimizer.ask()
    optimizer.tell(genomes, [Feedback(fitness=rastrigin(genome)) for genome in genomes])
    assert np.array_equal(optimizer.mean, found)
    genomes = optimizer.ask()
    optimizer.tell(genomes, [Feedback(fitness=1.0)] * len(genomes))
    assert not np.array_equal(optimizer.mean, found)


@pytest.mark.parametrize("kind", BOTH)
def test_a_few_generations_of_equal_answers_start_nothing_anew(kind: type[CmaEsIpop | CmaEsBipop]) -> None:
    optimizer = kind(Start(initial=np.full(2, 0.1), seed=1))
    for _ in range(9):
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=0.25)] * len(genomes))
    assert optimizer.figures["restarts"] == 0
    for _ in range(3):
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=0.25)] * len(genomes))
    assert optimizer.figures["restarts"] == 1
