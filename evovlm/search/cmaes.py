"""CMA-ES (Hansen 2016) through pycma, in the unit cube. pycma minimises, so the sign of the fitness turns here."""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import NormalDist
from typing import Any, ClassVar, NamedTuple

import numpy as np

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import Feedback, Start, check_asked
from evovlm.seeding import generator

THRESHOLD = 0.5
"""A binary gene counts as 1 above it."""

_TRIES_PER_DIM = 10
# Above this number of genes, a sample is hardly ever inside the cube, and a draw costs the number squared: the number
# of tries is then fixed, at the default of the package cmaes.
_MANY_GENES = 256
_TRIES_OF_MANY = 100
# Keeps a quantile finite, as in the package cmaes.
_LEAST = 1e-10


class CmaEs:
    """Full CMA-ES: a normal distribution that learns which numbers to move together.

    A sample outside the cube is drawn again, at most 10 dim times (above 256 genes: 100 times), then clipped. The
    paper's sampler does the same (the package cmaes: `n_max_resampling`, then `_repair_infeasible_params`), and learns
    from the point that was evaluated. pycma's own bounds would bend the distribution instead. Only the budget ends the
    search; pycma's termination criteria are not used.

    A gene of levels may lie outside [0, 1] inside the optimizer, where it means the outermost level. `ask` returns it
    clipped, and the distribution learns from the value that was drawn.
    """

    purpose: ClassVar[str] = "up to some hundreds of numbers: the paper's optimizer and the default choice"
    takes_goals: ClassVar[bool] = False
    keeps_population: ClassVar[bool] = True
    _options: ClassVar[Mapping[str, object]] = {}

    def __init__(self, start: Start) -> None:
        self._start = start
        self._draws = generator("cma", start.seed)
        self._dim = start.dim
        # pycma does not adapt in one dimension; a second, unused coordinate costs nothing.
        unused = 0 if self._dim > 1 else 1
        self._levels = np.append(start.levels_of_genes, [0] * unused)
        self._asked: list[Genome] = []

    @cached_property
    def _strategy(self) -> Any:
        """pycma's strategy, made when it is first needed: pycma takes a second to import (scipy.stats, matplotlib)."""
        start, draws = self._start, self._draws
        options = {
            "popsize": start.generation_size,
            # A separate stream: pycma would use numpy's global one, which belongs to the caller.
            "randn": lambda rows, columns: draws.standard_normal((rows, columns)),
            "seed": np.nan,
            # pycma's default below 6 candidates injects mirrored points, which the paper's sampler does not do.
            "CMA_mirrors": 0,
            "verbose": -9,
            # By default pycma reads commands from a file in the current folder.
            "signals_filename": "",
            **self._options,
        }
        with warnings.catch_warnings():
            # pycma warns at import when matplotlib is missing; nothing here plots.
            warnings.simplefilter("ignore")
            import cma
        initial = np.append(start.initial, [0.5] * (len(self._levels) - self._dim))
        return cma.CMAEvolutionStrategy(initial, start.sigma, options)

    @property
    def population(self) -> int:
        """Number of genomes in the next generation."""
        return int(self._strategy.popsize)

    @property
    def mean(self) -> Genome:
        """The distribution's mean, clipped to the cube."""
        return self._shown(np.asarray(self._strategy.mean, dtype=np.float64))

    @property
    def figures(self) -> Mapping[str, float]:
        """The step size `sigma`, and the `condition` number: variance along the longest axis over the shortest."""
        return {"sigma": float(self._strategy.sigma), "condition": self._condition}

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        self._asked = [self._inside(np.asarray(sample, dtype=np.float64)) for sample in self._strategy.ask()]
        return tuple(self._shown(sample) for sample in self._asked)

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Update the distribution. Raises ValueError unless they are the genomes of the last `ask`."""
        check_asked(genomes, [self._shown(asked) for asked in self._asked])
        # Without check_points=False, pycma would pull a clipped point, which it does not know, towards the mean.
        self._strategy.tell(
            [asked.copy() for asked in self._asked], [-each.fitness for each in feedback], check_points=False
        )

    @property
    def _condition(self) -> float:
        return float(self._strategy.condition_number)

    def _shown(self, point: Genome) -> Genome:
        shown: Genome = np.clip(point, 0.0, 1.0)[: self._dim].copy()
        return shown

    def _inside(self, sample: Genome) -> Genome:
        free = self._levels >= 2
        for _ in range(_TRIES_PER_DIM * self._dim if self._dim <= _MANY_GENES else _TRIES_OF_MANY):
            if bool(np.all((sample >= 0.0) & (sample <= 1.0) | free)):
                return sample
            sample = np.asarray(self._strategy.ask(number=1)[0], dtype=np.float64)
        return np.where(free, sample, np.clip(sample, 0.0, 1.0))


class CmaEsSeparable(CmaEs):
    """Separable CMA-ES (Ros and Hansen 2008): a step size for each gene, without dependence between genes.

    It learns about dim / 3 times as fast as full CMA-ES, and takes time and memory in proportion to dim.
    """

    purpose: ClassVar[str] = "many hundreds of numbers: learns the scale of each faster, but no dependence"
    _options: ClassVar[Mapping[str, object]] = {"CMA_diagonal": True}

    @property
    def _condition(self) -> float:
        stds = np.asarray(self._strategy.stds, dtype=np.float64)
        return float((stds.max() / stds.min()) ** 2)


class CmaEsWithMargin(CmaEs):
    """CMA-ES with margin (Hamano et al. 2022, arXiv 2205.13482): numbers and levels, none of which dies out.

    When the distribution of plain CMA-ES lies on one side of a threshold, it never draws the other side again. With
    margin, each side keeps at least the probability 1 / (dim population). Genes without levels move as in plain CMA-ES.

    Where the mean of a gene is in its lowest or highest interval, which is always so with two levels, the mean is kept
    close enough to the threshold (section 4.2). Where it is in an interval between two others, mean and spread are both
    corrected so that the mass below and the mass above the interval are at least half of the margin each (section 4.3).
    The spread is corrected by a separate factor that pycma does not see: it learns from the sample without the factor.
    """

    purpose: ClassVar[str] = "numbers mixed with ordered levels or on-off genes (a layer in or out)"

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._spread_by = np.ones(len(self._levels))

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Update distribution and mean. Raises ValueError unless they are the genomes of the last `ask`."""
        super().tell(genomes, feedback)
        margin = 1.0 / (self._dim * self.population)
        mean = np.asarray(self._strategy.mean, dtype=np.float64)
        stds = np.asarray(self._strategy.stds, dtype=np.float64)
        reach = NormalDist().inv_cdf(1.0 - margin) * stds
        mean = np.where(self._levels == 2, np.clip(mean, THRESHOLD - reach, THRESHOLD + reach), mean)
        for gene in np.flatnonzero(self._levels > 2).tolist():
            count, spread = int(self._levels[gene]), float(stds[gene])
            kept = within_reach(float(mean[gene]), spread * float(self._spread_by[gene]), levels=count, margin=margin)
            mean[gene], self._spread_by[gene] = kept.mean, kept.spread / spread
        self._strategy.mean = mean

    def _shown(self, point: Genome) -> Genome:
        mean = np.asarray(self._strategy.mean, dtype=np.float64)
        wider = np.where(self._levels > 2, mean + self._spread_by * (point - mean), point)
        return super()._shown(wider)


class Spread(NamedTuple):
    """The normal distribution of one gene."""

    mean: float
    spread: float


def within_reach(mean: float, spread: float, *, levels: int, margin: float) -> Spread:
    """Return the distribution of a gene of 3 or more levels, corrected so that it can still reach its neighbours.

    Section 4.3 of the paper, with the thresholds 1 / levels, 2 / levels, ...
    """
    normal = NormalDist()
    part = min(max(math.ceil(mean * levels) - 1, 0), levels - 1)
    if part in (0, levels - 1):
        threshold = (part or 1) / levels
        reach = normal.inv_cdf(1.0 - margin) * spread
        return Spread(min(max(mean, threshold - reach), threshold + reach), spread)
    low, high = part / levels, (part + 1) / levels
    below, above = normal.cdf((low - mean) / spread), normal.cdf((mean - high) / spread)
    between = 1.0 - below - above
    raised = [max(below, margin / 2), max(above, margin / 2)]
    whole = sum(raised) + between
    shares = [each + (1.0 - whole) * (each - margin / 2) / (whole - 1.5 * margin) for each in raised]
    to_low, to_high = (normal.inv_cdf(1.0 - min(max(share, _LEAST), 0.5 - _LEAST)) for share in shares)
    return Spread((low * to_high + high * to_low) / (to_low + to_high), (high - low) / (to_low + to_high))
