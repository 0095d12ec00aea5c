"""What every optimizer is: ask for a generation, tell its fitnesses. State is never stored: it is replayed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from evovlm.recipes.candidate import Genome

DEFAULT_SIGMA = 1 / 6
"""The paper's initial step size in the unit cube (protocol: Optuna's default for a [0, 1] float)."""

BinaryGenes: TypeAlias = npt.NDArray[np.bool_]
"""Which genes, shape (dim,), count only as above or not above one half."""


class Optimizer(Protocol):
    """A maximiser over the unit cube. The same seed and the same told fitnesses give the same genomes."""

    @property
    def population(self) -> int:
        """How many genomes one generation has."""
        ...

    @property
    def mean(self) -> Genome:
        """The centre of what it would ask for next, in the unit cube."""
        ...

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation: `population` genomes of shape (dim,), float64, in the unit cube."""
        ...

    def tell(self, genomes: Sequence[Genome], fitnesses: Sequence[float]) -> None:
        """Take the finite fitness of each genome of the generation; higher is better."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How wide a distribution is (`sigma`, in the unit cube) and how far from round.

    `condition` is that of the covariance: its longest axis over its shortest, squared.
    """

    sigma: float
    condition: float


@runtime_checkable
class HasSpread(Protocol):
    """An optimizer that can tell how wide its distribution is now; None where it has none."""

    @property
    def spread(self) -> Spread | None:
        """The distribution's width and shape."""
        ...


class OptimizerFactory(Protocol):
    """Builds an optimizer that starts at `initial`, shape (dim,); `population` None takes the default.

    `binary` is what the space tells about its genes; None is all False. An optimizer may make nothing of it.
    """

    def __call__(
        self,
        initial: Genome,
        *,
        seed: int,
        population: int | None = None,
        sigma: float = DEFAULT_SIGMA,
        binary: BinaryGenes | None = None,
    ) -> Optimizer:
        """Return the optimizer."""
        ...


def default_population(dim: int) -> int:
    """Return 4 + floor(3 ln dim), the default of CMA-ES (Hansen 2016, table 1)."""
    return 4 + math.floor(3 * math.log(dim))
