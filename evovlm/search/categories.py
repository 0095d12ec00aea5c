"""Independent distributions over the levels of genes, as in CatCMA (Hamano et al. 2024, arXiv 2405.09962)."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

_ALPHA = 1.5


class Categories:
    """A probability for each level of each gene, kept above 0, with an adaptive learning rate (ASNG, Akimoto 2019).

    The probabilities of levels 1, 2, ... are stored; level 0 of a gene has the rest (the authors' package `cmaes`
    stores it last). Genes of two levels are independent Bernoulli variables, whose Fisher information is diagonal:
    their numbers equal, to the last bit, those of an implementation for Bernoulli variables.
    """

    def __init__(self, probabilities: Sequence[Vector]) -> None:
        """Start from the probabilities of the levels of each gene, each of shape (levels,)."""
        counts = np.array([len(each) - 1 for each in probabilities])
        ends = np.cumsum(counts)
        self._places = [slice(end - count, end) for count, end in zip(counts.tolist(), ends.tolist(), strict=True)]
        self._many = [place for place in self._places if place.stop - place.start > 1]
        # For each stored probability: its gene, its level, and the number of stored levels of that gene.
        self._gene = np.repeat(np.arange(len(counts)), counts)
        self._level = np.arange(len(self._gene)) - np.repeat(ends - counts, counts) + 1
        self._count = np.repeat(counts, counts)
        # With this minimum, a draw from a settled distribution agrees with it in all genes with probability 0.73.
        self._least = (1.0 - 0.73 ** (1.0 / len(counts))) / self._count
        self._held = np.concatenate([each[1:] for each in probabilities])
        self._keep_off_the_edge()
        self._path = np.zeros(len(self._held))
        self._gamma = 0.0
        self._caution = 1.0
        self._rate = 1.0

    @property
    def probabilities(self) -> tuple[Vector, ...]:
        """The probabilities of the levels of each gene, each of shape (levels,)."""
        return tuple(np.concatenate([[1.0 - self._held[place].sum()], self._held[place]]) for place in self._places)

    def draw(self, draws: np.random.Generator) -> Ranks:
        """Return a level of each gene, shape (genes,)."""
        numbers = draws.random(len(self._places))
        reached = np.zeros((len(self._places), int(self._count.max())))
        reached[self._gene, self._level - 1] = self._held
        # A number below the probability of the last level gives the last level, and so on downwards.
        reached = np.where(reached > 0, reached[:, ::-1].cumsum(axis=1)[:, ::-1], 0.0)
        levels: Ranks = (numbers[:, None] < reached).sum(axis=1)
        return levels

    def learn(self, ranked: Ranks) -> None:
        """Update from a generation's levels, shape (population, genes), best first, as the authors' package does."""
        # Row-major: the order in memory decides the last bit of the product.
        drawn = np.equal(ranked[:, self._gene], self._level, order="C")
        gradient = _weights(len(ranked)) @ (drawn - self._held)
        scaled = self._scaled(gradient)
        norm = float(np.sqrt(scaled @ scaled)) + 1e-30
        self._held = self._held + self._rate / norm * gradient
        self._rate = 1.0 / self._caution
        beta = self._rate / math.sqrt(len(scaled))
        self._path = (1.0 - beta) * self._path + math.sqrt(beta * (2.0 - beta)) * scaled / norm
        self._gamma = (1.0 - beta) ** 2 * self._gamma + beta * (2.0 - beta)
        self._caution *= math.exp(beta * (self._gamma - float(self._path @ self._path) / _ALPHA))
        self._keep_off_the_edge()

    def _scaled(self, gradient: Vector) -> Vector:
        """Return the gradient times the root of the Fisher information (Akimoto et al. 2019, appendix B)."""
        scaled = gradient / np.sqrt(np.where(self._count == 1, self._held * (1.0 - self._held), self._held))
        for place in self._many:
            rest = 1.0 - float(self._held[place].sum())
            share = float(gradient[place].sum()) / (rest + math.sqrt(rest))
            scaled[place] += np.sqrt(self._held[place]) * share
        return scaled

    def _keep_off_the_edge(self) -> None:
        held = np.clip(self._held, self._least, 1.0 - self._least)
        for place in self._many:
            held[place] = _kept(self._held[place], least=float(self._least[place][0]))
        self._held = held


def _kept(held: Vector, *, least: float) -> Vector:
    """Return probabilities that are all at least `least`, level 0 included; the others are lowered in turn."""
    raised = np.maximum(np.concatenate([held, [1.0 - held.sum()]]), least)
    total = float(raised.sum())
    kept = raised - (total - 1.0) * (raised - least) / (total - least * len(raised))
    fair: Vector = kept[:-1] / kept.sum()
    return fair


def _weights(population: int) -> Vector:
    """Return CMA-ES's weights: those of the better half sum to 1, those of the worse half are 0."""
    half = population // 2
    raw = np.log((population + 1) / 2) - np.log(np.arange(1, half + 1))
    return np.concatenate([raw / raw.sum(), np.zeros(population - half)])
