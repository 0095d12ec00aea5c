"""NSGA-II: several goals, through pymoo."""

import sys

import numpy as np
import pytest

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.search.nsga2 import Nsga2
from evovlm.search.optimizer import Feedback, Start


def goals(genome: Genome) -> tuple[float, float]:
    """Return two goals at odds along the first gene; both want all other genes at 0.2."""
    off = float(np.sum((genome[1:] - 0.2) ** 2))
    return (float(genome[0]) - off, 1.0 - float(genome[0]) - off)


def test_a_front_comes_to_lie_along_all_trade_offs() -> None:
    optimizer = Nsga2(Start(initial=np.full(4, 0.5), seed=0, population=20))
    for _ in range(60):
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=sum(goals(genome)), goals=goals(genome)) for genome in genomes])
    last = np.array([goals(genome) for genome in optimizer.ask()])
    assert last[:, 0].max() > 0.9
    assert last[:, 1].max() > 0.9
    # On the front the two add up to 1.
    assert np.median(last.sum(axis=1)) > 0.97


def test_without_goals_it_climbs_the_fitness() -> None:
    optimizer = Nsga2(Start(initial=np.full(3, 0.5), seed=0))
    for _ in range(80):
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=-float(np.sum((genome - 0.8) ** 2))) for genome in genomes])
    assert np.abs(optimizer.mean - 0.8).max() < 0.02


def test_the_first_generation_has_the_initial_genome_and_is_drawn_around_it() -> None:
    asked = np.array(Nsga2(Start(initial=np.array([0.3, 0.7]), seed=0, population=400, sigma=0.05)).ask())
    assert asked[0].tolist() == [0.3, 0.7]
    assert np.abs(asked.mean(axis=0) - [0.3, 0.7]).max() < 0.01
    assert np.abs(asked.std(axis=0) - 0.05).max() < 0.01


def test_a_missing_pymoo_is_an_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    with pytest.raises(ConfigError, match=r'(?s)nsga2 needs pymoo.*pip install "evovlm\[pareto\]"'):
        Nsga2(Start(initial=np.full(2, 0.5), seed=0))
