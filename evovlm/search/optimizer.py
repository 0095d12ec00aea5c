"""What every optimizer is: ask for a generation, tell its fitnesses. State is never stored: it is replayed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.recipes.candidate import Genome

DEFAULT_SIGMA = 1 / 6
"""The paper's initial step size in the unit cube (protocol: Optuna's default for a [0, 1] float)."""

Levels: TypeAlias = npt.NDArray[np.int64]
"""How many values each gene takes, shape (dim,); 0 for a number of the whole interval.

A gene of k >= 2 levels counts only as the one of k equal parts of [0, 1] that it lies in (a boundary belongs to the
lower part): with 2, as above one half or not.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What an optimizer hears of a genome: a finite `fitness` (higher is better), and what some ask for besides.

    `goals` has a number for each of several goals, of which there may be none. `per_sample` maps a sample's key to its
    score, for those samples that the genome was scored on.
    """

    fitness: float
    goals: tuple[float, ...] = ()
    per_sample: Mapping[tuple[str, int], float] = field(default_factory=dict)


class Optimizer(Protocol):
    """A maximiser over the unit cube. The same seed and the same told fitnesses give the same genomes."""

    @property
    def population(self) -> int:
        """How many genomes the next generation has."""
        ...

    @property
    def mean(self) -> Genome:
        """The centre of what it would ask for next, in the unit cube."""
        ...

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation: `population` genomes of shape (dim,), float64, in the unit cube."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """What a report may show of its state (read only), by name; of most optimizers nothing."""
        ...

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Take what is known of each genome of the generation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What an optimizer starts from: a point, shape (dim,), and how far around it to look.

    `population` None takes the default. `levels` is what the space tells about its genes; None is all 0. An optimizer
    may make nothing of it.
    """

    initial: Genome
    seed: int
    population: int | None = None
    sigma: float = DEFAULT_SIGMA
    levels: Levels | None = None

    @property
    def dim(self) -> int:
        """How many genes there are."""
        return len(self.initial)

    @property
    def generation_size(self) -> int:
        """The population, or the default for so many genes."""
        return self.population or default_population(self.dim)

    @property
    def levels_of_genes(self) -> Levels:
        """The levels, those of none as 0."""
        return np.zeros(self.dim, dtype=np.int64) if self.levels is None else self.levels

    def nearby(self, draws: np.random.Generator) -> Genome:
        """Return a genome as CMA-ES draws its first ones: normally around the initial one, clipped to the cube."""
        drawn: Genome = np.clip(draws.normal(self.initial, self.sigma), 0.0, 1.0)
        return drawn


class OptimizerFactory(Protocol):
    """Builds an optimizer.

    `purpose` says what to take it for, `takes_goals` whether it makes something of several goals (all others take the
    fitness), `keeps_population` whether every generation has as many genomes.
    """

    purpose: str
    takes_goals: bool
    keeps_population: bool

    def __call__(self, start: Start) -> Optimizer:
        """Return the optimizer."""
        ...


class KeepsBest:
    """What optimizers share that have no distribution: generations of one size, and the best genome as their mean."""

    keeps_population: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        self._start = start
        self._best = np.array(start.initial, dtype=np.float64)
        self._best_fitness = -math.inf

    @property
    def population(self) -> int:
        """How many genomes the next generation has."""
        return self._start.generation_size

    @property
    def mean(self) -> Genome:
        """The genome of the highest fitness so far, the earliest of equals; at first the initial one."""
        return self._best.copy()

    @property
    def figures(self) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Remember the best."""
        for genome, each in zip(genomes, told, strict=True):
            if each.fitness > self._best_fitness:
                self._best, self._best_fitness = genome.copy(), each.fitness


def check_asked(genomes: Sequence[Genome], asked: Sequence[Genome]) -> None:
    """Raise ValueError unless the genomes are those asked for, in their order."""
    if len(genomes) != len(asked) or not all(map(np.array_equal, genomes, asked)):
        raise ValueError("tell takes the genomes of the last ask, in its order")


def default_population(dim: int) -> int:
    """Return 4 + floor(3 ln dim), the default of CMA-ES (Hansen 2016, table 1)."""
    return 4 + math.floor(3 * math.log(dim))
