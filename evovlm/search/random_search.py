"""Uniform random search over the unit cube: what every other optimizer has to beat at the same budget."""

from collections.abc import Sequence

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import DEFAULT_SIGMA, default_population
from evovlm.seeding import generator


class RandomSearch:
    """Draws every genome uniformly; its mean is the best genome told so far (at first the initial one)."""

    def __init__(
        self,
        initial: Genome,
        *,
        seed: int,
        population: int | None = None,
        sigma: float = DEFAULT_SIGMA,  # noqa: ARG002 - every optimizer takes one
    ) -> None:
        self._draws = generator("random_search", seed)
        self._best = np.array(initial, dtype=np.float64)
        self._best_fitness = -np.inf
        self._population = population or default_population(len(initial))

    @property
    def population(self) -> int:
        """How many genomes one generation has."""
        return self._population

    @property
    def mean(self) -> Genome:
        """The best genome so far."""
        return self._best.copy()

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return tuple(self._draws.random(len(self._best)) for _ in range(self._population))

    def tell(self, genomes: Sequence[Genome], fitnesses: Sequence[float]) -> None:
        """Remember the best."""
        for genome, fitness in zip(genomes, fitnesses, strict=True):
            if fitness > self._best_fitness:
                self._best, self._best_fitness = genome.copy(), fitness
