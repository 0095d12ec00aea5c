"""Random search: what every other optimizer has to beat at the same budget."""

from typing import ClassVar

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import KeepsBest, Start
from evovlm.seeding import generator


class RandomSearch(KeepsBest):
    """Draws every genome uniformly; its mean is the best genome told so far (at first the initial one)."""

    purpose: ClassVar[str] = "the yardstick: what any other has to beat at the same budget"
    takes_goals: ClassVar[bool] = False
    _stream: ClassVar[str] = "random_search"

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._draws = generator(type(self)._stream, start.seed)

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return tuple(self._draw() for _ in range(self.population))

    def _draw(self) -> Genome:
        return self._draws.random(self._start.dim)


class RandomNearby(RandomSearch):
    """Draws every genome as CMA-ES draws its first generation, around the initial one, which never moves."""

    purpose: ClassVar[str] = "the yardstick where the start is worth something: a path that is the host as it is"
    _stream: ClassVar[str] = "random_nearby"

    def _draw(self) -> Genome:
        return self._start.nearby(self._draws)
