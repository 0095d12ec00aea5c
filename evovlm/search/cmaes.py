"""CMA-ES (Hansen 2016) through pycma, in the unit cube. The only place where the sign of a fitness turns."""

import warnings
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import DEFAULT_SIGMA, BinaryGenes, Spread, default_population
from evovlm.seeding import generator

with warnings.catch_warnings():
    # It says at import that matplotlib is absent; nothing here plots.
    warnings.simplefilter("ignore")
    import cma

THRESHOLD = 0.5
"""A binary gene counts as 1 above it."""

_TRIES_PER_DIM = 10
# So many genes hardly ever all lie inside, and a draw costs as much as their number squared: then a fixed number of
# tries, which is the default of the package cmaes.
_MANY_GENES = 256
_TRIES_OF_MANY = 100


class CmaEs:
    """Full CMA-ES. A sample outside the cube is drawn again, at most 10 dim times (above 256 genes 100), then clipped.

    That is what the paper's sampler does (the package cmaes: `n_max_resampling`, then `_repair_infeasible_params`):
    what is told is the point that was evaluated. pycma's own bounds would bend the distribution instead. No
    termination criterion applies: the budget ends the search.

    A binary gene may leave the cube within: what it counts for is the same there. It is asked for clipped, and told as
    it was drawn.
    """

    def __init__(
        self,
        initial: Genome,
        *,
        seed: int,
        population: int | None = None,
        sigma: float = DEFAULT_SIGMA,
        binary: BinaryGenes | None = None,
    ) -> None:
        draws = generator("cma", seed)
        self._dim = len(initial)
        # pycma does not adapt in one dimension; a second, unused coordinate costs nothing.
        start = initial if self._dim > 1 else np.append(initial, 0.5)
        self._binary = np.zeros(len(start), dtype=np.bool_)
        if binary is not None:
            self._binary[: self._dim] = binary
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
        return self._shown(np.asarray(self._strategy.mean, dtype=np.float64))

    @property
    def spread(self) -> Spread:
        """The step size, and the condition of the covariance."""
        return Spread(sigma=float(self._strategy.sigma), condition=float(self._strategy.condition_number))

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        self._asked = [self._inside(np.asarray(sample, dtype=np.float64)) for sample in self._strategy.ask()]
        return tuple(self._shown(sample) for sample in self._asked)

    def tell(self, genomes: Sequence[Genome], fitnesses: Sequence[float]) -> None:
        """Update the distribution. Raises ValueError when the genomes are not those asked for."""
        same = len(genomes) == len(self._asked) and all(
            np.array_equal(given, self._shown(asked)) for given, asked in zip(genomes, self._asked, strict=True)
        )
        if not same:
            raise ValueError("tell takes the genomes of the last ask, in its order")
        # Unchecked: pycma would pull a clipped point, which it does not know, towards the mean.
        self._strategy.tell(
            [asked.copy() for asked in self._asked], [-fitness for fitness in fitnesses], check_points=False
        )

    def _shown(self, point: Genome) -> Genome:
        shown: Genome = np.clip(point, 0.0, 1.0)[: self._dim].copy()
        return shown

    def _inside(self, sample: Genome) -> Genome:
        for _ in range(_TRIES_PER_DIM * self._dim if self._dim <= _MANY_GENES else _TRIES_OF_MANY):
            if bool(np.all((sample >= 0.0) & (sample <= 1.0) | self._binary)):
                return sample
            sample = np.asarray(self._strategy.ask(number=1)[0], dtype=np.float64)
        return np.where(self._binary, sample, np.clip(sample, 0.0, 1.0))


class CmaEsWithMargin(CmaEs):
    """CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482, section 4.2), for binary genes.

    A plain CMA-ES whose distribution has come to lie on one side of a binary gene's threshold never draws the other
    side again. Here the mean is kept so close to the threshold that either side has at least the probability
    1 / (dim population). Genes that are not binary move as in the plain one.
    """

    def tell(self, genomes: Sequence[Genome], fitnesses: Sequence[float]) -> None:
        """Update the distribution, then its mean. Raises ValueError when the genomes are not those asked for."""
        CmaEs.tell(self, genomes, fitnesses)
        margin = 1.0 / (self._dim * self.population)
        mean = np.asarray(self._strategy.mean, dtype=np.float64)
        reach = NormalDist().inv_cdf(1.0 - margin) * np.asarray(self._strategy.stds, dtype=np.float64)
        near = np.clip(mean, THRESHOLD - reach, THRESHOLD + reach)
        self._strategy.mean = np.where(self._binary, near, mean)
