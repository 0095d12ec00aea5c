"""CMA-ES (Hansen 2016) through pycma, in the unit cube. The only place where the sign of a fitness turns."""

import warnings
from collections.abc import Sequence

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import DEFAULT_SIGMA, default_population
from evovlm.seeding import generator

with warnings.catch_warnings():
    # It says at import that matplotlib is absent; nothing here plots.
    warnings.simplefilter("ignore")
    import cma

_TRIES_PER_DIM = 10


class CmaEs:
    """Full CMA-ES. A sample outside the cube is drawn again, at most 10 dim times, then clipped.

    That is what the paper's sampler does (the package cmaes: `n_max_resampling`, then `_repair_infeasible_params`):
    what is told is the point that was evaluated. pycma's own bounds would bend the distribution instead. No
    termination criterion applies: the budget ends the search.
    """

    def __init__(
        self, initial: Genome, *, seed: int, population: int | None = None, sigma: float = DEFAULT_SIGMA
    ) -> None:
        draws = generator("cma", seed)
        self._dim = len(initial)
        # pycma does not adapt in one dimension; a second, unused coordinate costs nothing.
        start = initial if self._dim > 1 else np.append(initial, 0.5)
        options = {
            "popsize": population or default_population(self._dim),
            # Its own stream: pycma's default is numpy's global one, which is not ours to seed or to disturb.
            "randn": lambda rows, columns: draws.standard_normal((rows, columns)),
            "seed": np.nan,
            # On by default under 6 candidates; it injects mirrored points, which the paper's sampler does not have.
            "CMA_mirrors": 0,
            "verbose": -9,
        }
        self._strategy = cma.CMAEvolutionStrategy(start, sigma, options)
        self._asked: list[Genome] = []

    @property
    def population(self) -> int:
        """How many genomes one generation has."""
        return int(self._strategy.popsize)

    @property
    def mean(self) -> Genome:
        """The distribution's mean, clipped to the cube."""
        return np.clip(np.asarray(self._strategy.mean, dtype=np.float64), 0.0, 1.0)[: self._dim]

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        self._asked = [self._inside(np.asarray(sample, dtype=np.float64)) for sample in self._strategy.ask()]
        return tuple(sample[: self._dim].copy() for sample in self._asked)

    def tell(self, genomes: Sequence[Genome], fitnesses: Sequence[float]) -> None:
        """Update the distribution. Raises ValueError when the genomes are not those asked for."""
        same = len(genomes) == len(self._asked) and all(
            np.array_equal(given, asked[: self._dim]) for given, asked in zip(genomes, self._asked, strict=True)
        )
        if not same:
            raise ValueError("tell takes the genomes of the last ask, in its order")
        # Unchecked: pycma would pull a clipped point, which it does not know, towards the mean.
        self._strategy.tell(
            [asked.copy() for asked in self._asked], [-fitness for fitness in fitnesses], check_points=False
        )

    def _inside(self, sample: Genome) -> Genome:
        for _ in range(_TRIES_PER_DIM * self._dim):
            if bool(np.all((sample >= 0.0) & (sample <= 1.0))):
                return sample
            sample = np.asarray(self._strategy.ask(number=1)[0], dtype=np.float64)
        return np.clip(sample, 0.0, 1.0)
