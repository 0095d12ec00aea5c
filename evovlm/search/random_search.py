"""Random search: the baseline that every other optimizer has to beat at the same budget."""

from typing import ClassVar

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import KeepsBest, Start
from evovlm.seeding import generator


class RandomSearch(KeepsBest):
    """Draws every genome uniformly; its mean is the best genome so far (at first the initial one)."""

    purpose: ClassVar[str] = "the baseline: any other optimizer has to beat it at the same budget"
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
    """Draws every genome around the initial one, which never moves, as CMA-ES draws its first generation."""

    purpose: ClassVar[str] = "the baseline where the start is already good: a path that is the unchanged host"
    _stream: ClassVar[str] = "random_nearby"

    def _draw(self) -> Genome:
        return self._start.nearby(self._draws)
