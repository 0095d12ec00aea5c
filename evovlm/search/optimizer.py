"""The ask/tell interface of all optimizers. Their state is never stored: it is rebuilt by replaying the journal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from evovlm.recipes.candidate import Genome, Levels

DEFAULT_SIGMA = 1 / 6
"""The paper's initial step size in the unit cube (Optuna's default for a float in [0, 1])."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What an optimizer learns about one genome: its finite `fitness` (higher is better), and more for some optimizers.

    `goals` has one number per goal, higher is better; it is empty in a search without goals. `per_sample` maps a
    sample's key to its score, for the samples on which the genome was scored.
    """

    fitness: float
    goals: tuple[float, ...] = ()
    per_sample: Mapping[tuple[str, int], float] = field(default_factory=dict)


class Optimizer(Protocol):
    """A maximiser over the unit cube. The same seed and the same feedback give the same genomes."""

    @property
    def population(self) -> int:
        """Number of genomes in the next generation."""
        ...

    @property
    def mean(self) -> Genome:
        """The centre of the next generation, in the unit cube."""
        ...

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation: `population` genomes of shape (dim,), float64, in the unit cube."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """Read-only figures of its state for reports, by name; empty for most optimizers."""
        ...

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Learn from the feedback on each genome of the generation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Start:
    """What an optimizer starts from: a point of shape (dim,), and the step size `sigma` around it.

    `population` None takes the default. `levels` None means 0 for all genes. Some optimizers ignore the levels.
    """

    initial: Genome
    seed: int
    population: int | None = None
    sigma: float = DEFAULT_SIGMA
    levels: Levels | None = None

    @property
    def dim(self) -> int:
        """Number of genes."""
        return len(self.initial)

    @property
    def generation_size(self) -> int:
        """The population, or the default for this number of genes."""
        return self.population or default_population(self.dim)

    @property
    def levels_of_genes(self) -> Levels:
        """The levels; 0 for every gene in a space without levels."""
        return np.zeros(self.dim, dtype=np.int64) if self.levels is None else self.levels

    def nearby(self, draws: np.random.Generator) -> Genome:
        """Draw a genome normally around the initial one, clipped to the cube, as in CMA-ES's first generation."""
        drawn: Genome = np.clip(draws.normal(self.initial, self.sigma), 0.0, 1.0)
        return drawn


@runtime_checkable
class OptimizerFactory(Protocol):
    """Builds an optimizer.

    `purpose` says when to use it, `takes_goals` whether it optimizes several goals (the others use the fitness), and
    `keeps_population` whether all generations have the same size.
    """

    purpose: str
    takes_goals: bool
    keeps_population: bool

    def __call__(self, start: Start) -> Optimizer:
        """Return the optimizer."""
        ...


class KeepsBest:
    """Base of optimizers without a distribution: generations of one size, and the best genome so far as the mean."""

    keeps_population: ClassVar[bool] = True

    def __init__(self, start: Start) -> None:
        self._start = start
        self._best = np.array(start.initial, dtype=np.float64)
        self._best_fitness = -math.inf

    @property
    def population(self) -> int:
        """Number of genomes in the next generation."""
        return self._start.generation_size

    @property
    def mean(self) -> Genome:
        """The genome with the highest fitness so far, the earliest of equals; before any feedback, the initial one."""
        return self._best.copy()

    @property
    def figures(self) -> Mapping[str, float]:
        """Empty."""
        return {}

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Remember the best genome."""
        for genome, each in zip(genomes, feedback, strict=True):
            if each.fitness > self._best_fitness:
                self._best, self._best_fitness = genome.copy(), each.fitness


def check_asked(genomes: Sequence[Genome], asked: Sequence[Genome]) -> None:
    """Raise ValueError unless the genomes are those of the last `ask`, in the same order."""
    if len(genomes) != len(asked) or not all(map(np.array_equal, genomes, asked)):
        raise ValueError("tell takes the genomes of the last ask, in the same order")


def default_population(dim: int) -> int:
    """Return 4 + floor(3 ln dim), the default of CMA-ES (Hansen 2016, table 1)."""
    return 4 + math.floor(3 * math.log(dim))
