"""What a search moves in: a space maps points of the unit cube to recipes, and back.

A kind of space is one class. Everything outside asks a space through this protocol, never which kind it is.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome, Levels
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.source_values import Component

Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One named coordinate: a number between `low` (0) and `high` (1), or one of several `options`.

    Of k options, each takes one of k equal parts of [0, 1]; a boundary belongs to the lower part.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    options: tuple[Any, ...] = ()

    def value(self, coordinate: float) -> Any:
        """Return the number or the option of a coordinate."""
        if self.options:
            return self.options[max(math.ceil(coordinate * len(self.options)) - 1, 0)]
        return min(max(self.low + coordinate * (self.high - self.low), self.low), self.high)

    def coordinate(self, value: Any) -> float:
        """Return the coordinate of a number in the range, or the middle of an option's part.

        Raises ConfigError for a value that is not among the options.
        """
        if self.options:
            if value not in self.options:
                raise ConfigError(
                    f"{self.name} is {value}, but the space chooses among {', '.join(map(str, self.options))}."
                )
            return (self.options.index(value) + 0.5) / len(self.options)
        found = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        near = (found, math.nextafter(found, 0.0), math.nextafter(found, 1.0))
        # A number that was decoded from a coordinate has a coordinate that decodes to it exactly.
        return next((each for each in near if self.value(each) == value), found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A location in a recipe, the number `given` for it, and the number `taken` there by the nearest recipe of a space.

    The defaults mean no difference.
    """

    place: str = ""
    given: float = 0.0
    taken: float = 0.0

    @property
    def size(self) -> float:
        """The distance between the two numbers."""
        return abs(self.given - self.taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitNumbers:
    """A parameter of a source, of one `component` where components differ: one value per unit.

    A value is None where a unit has no tensors of the component. `knots` are the numbers that were searched, where
    those of the blocks are interpolated: the position on the axis of units (embedding 0, block i at i + 1; it may lie
    between two blocks), and the number there.
    """

    source: str
    parameter: str
    component: Component | None
    values: tuple[float | None, ...]
    knots: tuple[tuple[float, float], ...] = ()

    @property
    def name(self) -> str:
        """`weight`, or `weight.attention`."""
        return ".".join(filter(None, (self.parameter, self.component)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A point of a space, described for people.

    `numbers` has one value for each of `units`; `ranges` says in which range each parameter was searched. `chosen`
    has the option of each choice by name. `path` is the recipe's path, and `is_host` says whether it is the host's own
    blocks, unscaled. What a kind of space does not have is empty.
    """

    units: tuple[str, ...] = ()
    numbers: tuple[UnitNumbers, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    chosen: Mapping[str, object] = field(default_factory=dict)
    path: LayerPath | None = None
    is_host: bool = False


class Space(Protocol):
    """The recipes that a search may find, as points of the unit cube."""

    __slots__ = ()

    @property
    @abstractmethod
    def genes(self) -> tuple[Gene, ...]:
        """The coordinates, in order."""

    @property
    @abstractmethod
    def initial(self) -> Genome:
        """The point that a search starts from, shape (dim,), float64."""

    @abstractmethod
    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe that `genome` (shape (dim,), in the unit cube) decodes to.

        Raises ValueError when the genome has another shape or leaves the cube.
        """

    @abstractmethod
    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome that decodes to `recipe`. Raises ConfigError for a recipe that is not in this space."""

    @abstractmethod
    def nearest(self, recipe: Recipe) -> tuple[Genome, Gap]:
        """Return the genome of the recipe nearest to `recipe`, and where the two differ most.

        Raises ConfigError for a recipe of other models, or one that no point is near to.
        """

    @abstractmethod
    def starting_at(self, recipe: Recipe) -> Self:
        """Return the same space, in which a search starts at `recipe`. Raises ConfigError as `nearest` does."""

    @abstractmethod
    def equal_weights(self, weight: float) -> Recipe:
        """Return the recipe in which every source has the same weight, and what is not fixed has its default.

        Raises ConfigError where sources have no weights.
        """

    @property
    @abstractmethod
    def largest(self) -> Recipe:
        """A recipe whose checkpoint is as large as any of this space."""

    @abstractmethod
    def describe(self, genome: Genome) -> Description:
        """Return what a genome decodes to, described for people."""

    @property
    def dim(self) -> int:
        """The number of genes."""
        return len(self.genes)

    @property
    def levels(self) -> Levels:
        """The number of options of each gene, shape (dim,); 0 for a number."""
        return np.array([len(gene.options) for gene in self.genes], dtype=np.int64)

    def check(self, genome: Genome) -> None:
        """Raise ValueError unless `genome` is a point of this space's unit cube."""
        if genome.shape != (self.dim,) or not bool(np.all((genome >= 0.0) & (genome <= 1.0))):
            raise ValueError(f"a genome of this space has shape ({self.dim},) and lies in [0, 1], not {genome}")
