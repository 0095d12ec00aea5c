"""CatCMA (Hamano et al. 2024, arXiv 2405.09962): a distribution over the levels of each gene that has levels, and
CMA-ES for all other genes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.categories import Categories, Vector
from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import Feedback, Start, check_asked
from evovlm.seeding import generator


class CatCma:
    """CatCMA: one ranking updates CMA-ES over the numbers and independent probabilities of the levels of other genes.

    In a genome, a level is the middle of its interval of [0, 1]; of two levels, 0 or 1. Each level starts with the
    probability that a normal draw around the gene's initial value, with standard deviation `sigma`, falls in its
    interval. In `mean`, a gene is at its most probable level; a gene of two levels is the probability of the upper one.
    """

    purpose: ClassVar[str] = "numbers mixed with unordered levels (a method, a source) or on-off genes"
    takes_goals: ClassVar[bool] = False
    keeps_population: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        self._population = start.generation_size
        self._has_levels = start.levels_of_genes >= 2
        self._counts = start.levels_of_genes[self._has_levels]
        self._draws = generator("catcma", start.seed)
        probabilities = [
            _level_probabilities(value, levels=count, sigma=start.sigma)
            for value, count in zip(start.initial[self._has_levels].tolist(), self._counts.tolist(), strict=True)
        ]
        self._categories = Categories(probabilities) if probabilities else None
        others = replace(start, initial=start.initial[~self._has_levels], population=self._population, levels=None)
        self._others = CmaEs(others) if others.dim else None
        self._asked: tuple[Genome, ...] = ()

    @property
    def population(self) -> int:
        """Number of genomes in the next generation."""
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
        """The figures of CMA-ES over the numbers, and `settled`: the mean largest probability of a level."""
        found = dict(self._others.figures) if self._others else {}
        if self._categories:
            found["settled"] = float(np.mean([each.max() for each in self._categories.probabilities]))
        return found

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        drawn = [None] * self._population if self._others is None else self._others.ask()
        self._asked = tuple(self._joined(self._drawn_levels(), others) for others in drawn)
        return tuple(genome.copy() for genome in self._asked)

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Update both distributions. Raises ValueError unless they are the genomes of the last `ask`."""
        check_asked(genomes, self._asked)
        if self._others:
            self._others.tell([genome[~self._has_levels] for genome in genomes], feedback)
        if self._categories:
            # A stable sort: of equal genomes, the earlier one ranks higher, as in pycma.
            order = np.argsort(-np.array([each.fitness for each in feedback], dtype=np.float64), kind="stable")
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


def _level_probabilities(value: float, *, levels: int, sigma: float) -> Vector:
    """Return the probability that a normal draw around `value` falls in each of `levels` equal intervals of [0, 1]."""
    normal = NormalDist(sigma=sigma)
    # Summed from the top: with two levels, the upper one is then exactly cdf(value - 1/2).
    above = [normal.cdf(value - number / levels) for number in range(1, levels)]
    return np.array([1.0 - above[0], *(a - b for a, b in zip(above, [*above[1:], 0.0], strict=True))])


def _middle(level: int, probabilities: Vector) -> float:
    return (level + 0.5) / len(probabilities)
