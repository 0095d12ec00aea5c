"""CatCMA for binary genes (Hamano et al. 2024, arXiv 2405.09962): a probability for each, CMA-ES for all others."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from evovlm.recipes.candidate import Genome
from evovlm.search.cmaes import THRESHOLD, CmaEs
from evovlm.search.optimizer import DEFAULT_SIGMA, BinaryGenes, Spread, default_population
from evovlm.seeding import generator

Vector = npt.NDArray[np.float64]


class CatCma:
    """One ranking moves both: a Gaussian over the other genes, and independent probabilities of the binary ones.

    A binary gene is asked for as 0 or 1, and starts with the probability that a draw around its initial value by
    `sigma` is above one half; as part of `mean` it is its probability.
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
        self._binary = np.zeros(len(initial), dtype=np.bool_) if binary is None else binary.copy()
        self._population = population or default_population(len(initial))
        self._draws = generator("catcma", seed)
        start = [NormalDist(sigma=sigma).cdf(value - THRESHOLD) for value in initial[self._binary].tolist()]
        self._switches = _Switches(np.array(start, dtype=np.float64)) if start else None
        others = initial[~self._binary]
        self._others = CmaEs(others, seed=seed, population=self._population, sigma=sigma) if len(others) else None
        self._asked: tuple[Genome, ...] = ()

    @property
    def population(self) -> int:
        """How many genomes one generation has."""
        return self._population

    @property
    def mean(self) -> Genome:
        """The Gaussian's mean, clipped to the cube, and the probabilities."""
        return self._joined(
            self._switches.probabilities if self._switches else None, self._others.mean if self._others else None
        )

    @property
    def spread(self) -> Spread | None:
        """That of the Gaussian; None where every gene is binary."""
        return self._others.spread if self._others else None

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        drawn = [None] * self._population if self._others is None else self._others.ask()
        self._asked = tuple(
            self._joined(self._switches.draw(self._draws) if self._switches else None, others) for others in drawn
        )
        return tuple(genome.copy() for genome in self._asked)

    def tell(self, genomes: Sequence[Genome], fitnesses: Sequence[float]) -> None:
        """Update both distributions. Raises ValueError when the genomes are not those asked for."""
        same = len(genomes) == len(self._asked) and all(map(np.array_equal, genomes, self._asked))
        if not same:
            raise ValueError("tell takes the genomes of the last ask, in its order")
        if self._others:
            self._others.tell([genome[~self._binary] for genome in genomes], fitnesses)
        if self._switches:
            # A stable sort: of equals, the earlier asked is the better, as in pycma.
            order = np.argsort(-np.asarray(fitnesses, dtype=np.float64), kind="stable")
            self._switches.learn(np.array([genomes[index][self._binary] for index in order]))

    def _joined(self, switches: Vector | None, others: Genome | None) -> Genome:
        genome = np.empty(len(self._binary), dtype=np.float64)
        if switches is not None:
            genome[self._binary] = switches
        if others is not None:
            genome[~self._binary] = others
        return genome


class _Switches:
    """Independent probabilities that adapt their learning rate (ASNG, Akimoto et al. 2019), kept off 0 and 1."""

    def __init__(self, probabilities: Vector) -> None:
        count = len(probabilities)
        # With it, a draw of a settled distribution goes against none of its genes with probability 0.73.
        self._least = 1.0 - 0.73 ** (1.0 / count)
        self.probabilities = np.clip(probabilities, self._least, 1.0 - self._least)
        self._path = np.zeros(count)
        self._gamma = 0.0
        self._caution = 1.0
        self._rate = 1.0

    def draw(self, draws: np.random.Generator) -> Vector:
        """Return 0 or 1 for each."""
        return (draws.random(len(self.probabilities)) < self.probabilities).astype(np.float64)

    def learn(self, ranked: Vector) -> None:
        """Take a generation, shape (population, count), the best first; as the authors' package `cmaes` does."""
        gradient = _weights(len(ranked)) @ (ranked - self.probabilities)
        # Times the root of the Fisher information of independent Bernoulli variables.
        scaled = gradient / np.sqrt(self.probabilities * (1.0 - self.probabilities))
        norm = float(np.sqrt(scaled @ scaled)) + 1e-30
        self.probabilities = self.probabilities + self._rate / norm * gradient
        self._rate = 1.0 / self._caution
        beta = self._rate / math.sqrt(len(scaled))
        self._path = (1.0 - beta) * self._path + math.sqrt(beta * (2.0 - beta)) * scaled / norm
        self._gamma = (1.0 - beta) ** 2 * self._gamma + beta * (2.0 - beta)
        self._caution *= math.exp(beta * (self._gamma - float(self._path @ self._path) / _ALPHA))
        self.probabilities = np.clip(self.probabilities, self._least, 1.0 - self._least)


_ALPHA = 1.5


def _weights(population: int) -> Vector:
    """Return CMA-ES's weights of the better half, which sum to 1; the worse half has none."""
    half = population // 2
    raw = np.log((population + 1) / 2) - np.log(np.arange(1, half + 1))
    return np.concatenate([raw / raw.sum(), np.zeros(population - half)])
