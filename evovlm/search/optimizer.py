"""What every optimizer is: ask for a generation, tell its fitnesses. State is never stored: it is replayed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

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

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Take what is known of each genome of the generation."""
        ...


class OptimizerFactory(Protocol):
    """Builds an optimizer that starts at `initial`, shape (dim,); `population` None takes the default.

    `levels` is what the space tells about its genes; None is all 0. An optimizer may make nothing of it.
    """

    def __call__(
        self,
        initial: Genome,
        *,
        seed: int,
        population: int | None = None,
        sigma: float = DEFAULT_SIGMA,
        levels: Levels | None = None,
    ) -> Optimizer:
        """Return the optimizer."""
        ...


def default_population(dim: int) -> int:
    """Return 4 + floor(3 ln dim), the default of CMA-ES (Hansen 2016, table 1)."""
    return 4 + math.floor(3 * math.log(dim))
