"""An optimizer: a quasi-random sequence, which covers the cube more evenly than random search."""

from typing import ClassVar

from scipy.stats import qmc

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import KeepsBest, Start


class Halton(KeepsBest):
    """Asks for the points of a Halton sequence, in their order."""

    purpose: ClassVar[str] = "few genes, and a budget that covers the cube"
    takes_goals: ClassVar[bool] = False

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._sequence = qmc.Halton(start.dim, rng=start.seed)

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return tuple(self._sequence.random(self.population))
