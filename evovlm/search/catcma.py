"""CatCMA (Hamano et al. 2024, arXiv 2405.09962): a distribution over the levels of each gene that has some, CMA-ES for
all others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.categories import Categories, Vector
from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import Start, Told, check_asked
from evovlm.seeding import generator


class CatCma:
    """One ranking moves both: CMA-ES over the numbers, and independent probabilities of the levels of all other genes.

    A level is asked for as the middle of its part of [0, 1], one of two as 0 or 1. Each starts with the probability
    that a draw around the gene's initial value by `sigma` falls in its part. As part of `mean` a gene is its most
    probable level; one of two levels is the probability of the upper one.
    """

    purpose: ClassVar[str] = "levels in no order (a method, a source), or two, beside numbers"
    takes_goals: ClassVar[bool] = False
    keeps_population: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        self._population = start.generation_size
        self._has_levels = start.levels_of_genes >= 2
        self._counts = start.levels_of_genes[self._has_levels]
        self._draws = generator("catcma", start.seed)
        parts = [
            _drawn_in_parts(value, levels=count, sigma=start.sigma)
            for value, count in zip(start.initial[self._has_levels].tolist(), self._counts.tolist(), strict=True)
        ]
        self._categories = Categories(parts) if parts else None
        others = replace(start, initial=start.initial[~self._has_levels], population=self._population, levels=None)
        self._others = CmaEs(others) if others.dim else None
        self._asked: tuple[Genome, ...] = ()

    @property
    def population(self) -> int:
        """How many genomes the next generation has."""
        return self._population

    @property
    def mean(self) -> Genome:
        """The normal distribution's mean, clipped to the cube, and the most probable levels."""
        found = None
        if self._categories:
            found = np.array(
                [
                    probabilities[1] if len(probabilities) == 2 else _middle(int(probabilities.argmax()), probabilities)
                    for probabilities in self._categories.probabilities
                ]
            )
        return self._joined(found, self._others.mean if self._others else None)

    @property
    def figures(self) -> Mapping[str, float]:
        """Those of the numbers' distribution, and how `settled` the levels are (mean largest probability)."""
        found = dict(self._others.figures) if self._others else {}
        if self._categories:
            found["settled"] = float(np.mean([each.max() for each in self._categories.probabilities]))
        return found

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        drawn = [None] * self._population if self._others is None else self._others.ask()
        self._asked = tuple(self._joined(self._drawn_levels(), others) for others in drawn)
        return tuple(genome.copy() for genome in self._asked)

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Update both distributions. Raises ValueError when the genomes are not those asked for."""
        check_asked(genomes, self._asked)
        if self._others:
            self._others.tell([genome[~self._has_levels] for genome in genomes], told)
        if self._categories:
            # A stable sort: of equals, the earlier asked is the better, as in pycma.
            order = np.argsort(-np.array([each.fitness for each in told], dtype=np.float64), kind="stable")
            shown = np.array([genomes[index][self._has_levels] for index in order])
            self._categories.learn(np.minimum((shown * self._counts).astype(np.int64), self._counts - 1))

    def _drawn_levels(self) -> Vector | None:
        if self._categories is None:
            return None
        drawn = self._categories.draw(self._draws)
        return np.where(self._counts == 2, drawn, (drawn + 0.5) / self._counts)

    def _joined(self, levels: Vector | None, others: Genome | None) -> Genome:
        genome = np.empty(len(self._has_levels), dtype=np.float64)
        if levels is not None:
            genome[self._has_levels] = levels
        if others is not None:
            genome[~self._has_levels] = others
        return genome


def _drawn_in_parts(value: float, *, levels: int, sigma: float) -> Vector:
    """Return the probability that a normal draw around `value` falls in each of `levels` equal parts of [0, 1]."""
    normal = NormalDist(sigma=sigma)
    # From the top, so that of two levels the upper one is the same number as ever.
    above = [normal.cdf(value - number / levels) for number in range(1, levels)]
    return np.array([1.0 - above[0], *(a - b for a, b in zip(above, [*above[1:], 0.0], strict=True))])


def _middle(level: int, probabilities: Vector) -> float:
    return (level + 0.5) / len(probabilities)
