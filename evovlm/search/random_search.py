"""Random search: what every other optimizer has to beat at the same budget."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import DEFAULT_SIGMA, Best, Levels, Told, default_population, drawn_nearby
from evovlm.seeding import generator


class RandomSearch:
    """Draws every genome uniformly; its mean is the best genome told so far (at first the initial one)."""

    purpose: ClassVar[str] = "the yardstick: what any other has to beat at the same budget"
    takes_goals: ClassVar[bool] = False
    keeps_population: ClassVar[bool] = True
    _stream: ClassVar[str] = "random_search"

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
        self._best = Best(initial)
        self._population = population or default_population(len(initial))

    @property
    def population(self) -> int:
        """How many genomes the next generation has."""
        return self._population

    @property
    def mean(self) -> Genome:
        """The best genome so far."""
        return self._best.genome

    @property
    def figures(self) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return tuple(self._draw() for _ in range(self._population))

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Remember the best."""
        self._best.tell(genomes, told)

    def _draw(self) -> Genome:
        return self._draws.random(len(self._initial))


class RandomNearby(RandomSearch):
    """Draws every genome as CMA-ES draws its first generation, around the initial one, which never moves."""

    purpose: ClassVar[str] = "the yardstick where the start is worth something: a path that is the host as it is"
    _stream: ClassVar[str] = "random_nearby"

    def _draw(self) -> Genome:
        return drawn_nearby(self._initial, sigma=self._sigma, draws=self._draws)
