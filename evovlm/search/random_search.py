"""Random search: what every other optimizer has to beat at the same budget."""

from collections.abc import Sequence

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import DEFAULT_SIGMA, Levels, Told, default_population
from evovlm.seeding import generator


class RandomSearch:
    """Draws every genome uniformly; its mean is the best genome told so far (at first the initial one)."""

    def __init__(
        self,
        initial: Genome,
        *,
        seed: int,
        population: int | None = None,
        sigma: float = DEFAULT_SIGMA,
        levels: Levels | None = None,  # noqa: ARG002 - every optimizer takes them
    ) -> None:
        self._draws = generator(type(self)._stream, seed)
        self._initial = np.array(initial, dtype=np.float64)
        self._sigma = sigma
        self._best = self._initial
        self._best_fitness = -np.inf
        self._population = population or default_population(len(initial))

    _stream = "random_search"

    @property
    def population(self) -> int:
        """How many genomes the next generation has."""
        return self._population

    @property
    def mean(self) -> Genome:
        """The best genome so far."""
        return self._best.copy()

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return tuple(self._draw() for _ in range(self._population))

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Remember the best."""
        for genome, each in zip(genomes, told, strict=True):
            if each.fitness > self._best_fitness:
                self._best, self._best_fitness = genome.copy(), each.fitness

    def _draw(self) -> Genome:
        return self._draws.random(len(self._initial))


class RandomNearby(RandomSearch):
    """Draws every genome as CMA-ES draws its first generation, around the initial one, which never moves.

    Where the initial genome is worth something (a path that is the host as it is), this is the random search to beat.
    """

    _stream = "random_nearby"

    def _draw(self) -> Genome:
        drawn: Genome = np.clip(self._draws.normal(self._initial, self._sigma), 0.0, 1.0)
        return drawn
