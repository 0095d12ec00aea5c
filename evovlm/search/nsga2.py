"""NSGA-II (Deb et al. 2002) through pymoo, the optional extra `pareto`: several goals, none put before another."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import KeepsBest, Start, Told, check_asked
from evovlm.seeding import derive_seed, generator

_SBX_ETA, _PM_ETA = 3, 5
"""How close a child stays to its parents: pymoo's 15 and 20 are for tens of thousands of evaluations.

Of those there are some hundreds here, in which wider steps come several times closer (benchmarks/LOG.md)."""


class Nsga2(KeepsBest):
    """NSGA-II: keeps as many of the genomes as a generation has, those that no other beats on all goals first.

    The first generation is the initial genome and draws around it, as CMA-ES draws; each next one comes from the kept
    by simulated binary crossover and polynomial mutation. Without goals it goes by the fitness. A gene of levels is a
    number here, which the space rounds. A generation has the default of CMA-ES. Its mean is
    the genome of the highest fitness so far. Raises ConfigError where pymoo is not installed.
    """

    purpose: ClassVar[str] = "several goals at once: a front to choose from"
    takes_goals: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._draws = generator("nsga2", start.seed)
        first = np.array([start.initial, *(start.nearby(self._draws) for _ in range(self.population - 1))])
        self._algorithm = _algorithm(first, seed=derive_seed("nsga2", start.seed))
        # As pymoo has it: told is what was asked, with its values.
        self._asked: Any = None

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        from pymoo.core.population import Population

        asked = self._algorithm.ask()
        found = 0 if asked is None else len(asked)
        if found < self.population:
            # The kept have become so alike that crossover yields nothing new.
            drawn = Population.new(X=self._draws.random((self.population - found, self._start.dim)))
            asked = drawn if asked is None else Population.merge(asked, drawn)
        self._asked = asked
        return tuple(np.array(genome, dtype=np.float64) for genome in asked.get("X"))

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Keep the better ones. Raises ValueError when the genomes are not those asked for."""
        check_asked(genomes, [] if self._asked is None else list(self._asked.get("X")))
        # pymoo looks for the lowest values.
        self._asked.set("F", -np.array([each.goals or (each.fitness,) for each in told], dtype=np.float64))
        self._algorithm.tell(infills=self._asked)
        super().tell(genomes, told)


def _algorithm(first: Genome, *, seed: int) -> Any:
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
    except ImportError as error:
        raise ConfigError(
            'optimizer.kind: nsga2 needs pymoo, which is not installed.\n    pip install "evovlm[pareto]"'
        ) from error
    count, dim = first.shape
    algorithm = NSGA2(pop_size=count, sampling=first, crossover=SBX(eta=_SBX_ETA, prob=0.9), mutation=PM(eta=_PM_ETA))
    # How many goals there are is seen when they are told; pymoo asks its problem for the bounds alone.
    algorithm.setup(Problem(n_var=dim, n_obj=1, xl=0.0, xu=1.0), termination=NoTermination(), seed=seed)
    return algorithm
