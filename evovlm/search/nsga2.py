"""NSGA-II (Deb et al. 2002) through pymoo, the optional extra `pareto`: several goals of equal rank."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import Feedback, KeepsBest, Start, check_asked
from evovlm.seeding import derive_seed, generator

_SBX_ETA, _PM_ETA = 3, 5
"""How close a child stays to its parents: pymoo's 15 and 20 are for tens of thousands of evaluations.

With some hundreds, as here, wider steps get several times closer to the front (benchmarks/LOG.md)."""


class Nsga2(KeepsBest):
    """NSGA-II: keeps as many genomes as a generation has, first those that no other genome dominates.

    The first generation is the initial genome and draws around it, as in CMA-ES; each next one is made from the kept
    genomes by simulated binary crossover and polynomial mutation. Without goals, the fitness is the only goal. A gene
    of levels is treated as a number, which the space rounds. The default population is that of CMA-ES. The mean is the
    genome with the highest fitness so far. Raises ConfigError when pymoo is not installed.
    """

    purpose: ClassVar[str] = "several goals at once: finds a front to choose from"
    takes_goals: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._draws = generator("nsga2", start.seed)
        first = np.array([start.initial, *(start.nearby(self._draws) for _ in range(self.population - 1))])
        self._algorithm = _algorithm(first, seed=derive_seed("nsga2", start.seed))
        # pymoo's population: tell returns the one from ask, with values added.
        self._asked: Any = None

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        from pymoo.core.population import Population

        asked = self._algorithm.ask()
        found = 0 if asked is None else len(asked)
        if found < self.population:
            # The kept genomes are so similar that crossover yields nothing new.
            drawn = Population.new(X=self._draws.random((self.population - found, self._start.dim)))
            asked = drawn if asked is None else Population.merge(asked, drawn)
        self._asked = asked
        return tuple(np.array(genome, dtype=np.float64) for genome in asked.get("X"))

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Keep the better genomes. Raises ValueError unless they are the genomes of the last `ask`."""
        check_asked(genomes, [] if self._asked is None else list(self._asked.get("X")))
        # pymoo minimises.
        self._asked.set("F", -np.array([each.goals or (each.fitness,) for each in feedback], dtype=np.float64))
        self._algorithm.tell(infills=self._asked)
        super().tell(genomes, feedback)


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
    # pymoo reads only the bounds from its problem; the number of goals comes with the first values.
    algorithm.setup(Problem(n_var=dim, n_obj=1, xl=0.0, xu=1.0), termination=NoTermination(), seed=seed)
    return algorithm
