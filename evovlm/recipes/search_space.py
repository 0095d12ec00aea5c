"""A space that a search moves in: it maps a point of the unit cube to the numbers of a recipe, and back."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.recipe import (
    COMPONENTS,
    SOURCE_PARAMETERS,
    ByComponent,
    Component,
    SourceParameters,
    UnitValues,
    Values,
    numbers_of,
    parts_of,
    value_at,
)
from evovlm.recipes.unit_ties import UnitTie, components_of, unit_name, units_of

Range: TypeAlias = tuple[float, float]
Parameters: TypeAlias = Mapping[str, SourceParameters]
"""The numbers of each source, by its name."""

_AGREES = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One named coordinate: a parameter of a source, for all of the model or (`place`) for a part of it.

    The gene's 0 is `low` and its 1 is `high`; `initial` is the number a search starts from.
    """

    source: str
    parameter: str
    place: str
    low: float
    high: float

    @property
    def name(self) -> str:
        """`source.parameter`, followed by `.embedding`, `.block3`, `.knot2`, `.attention.head` where it has a place."""
        return ".".join(filter(None, (self.source, self.parameter, self.place)))

    @property
    def initial(self) -> float:
        """The number a search starts from."""
        return (self.low + self.high) / 2

    def value(self, coordinate: float) -> float:
        """Return the number that a coordinate stands for."""
        return min(max(self.low + coordinate * (self.high - self.low), self.low), self.high)

    def coordinate(self, value: float) -> float:
        """Return the coordinate that stands for a number of the range."""
        found = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        near = (found, math.nextafter(found, 0.0), math.nextafter(found, 1.0))
        # What was made of a coordinate is made of this one again, to the last bit.
        return next((each for each in near if self.value(each) == value), found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The components (None: all together) that share numbers, and how their units are tied."""

    component: Component | None
    tie: UnitTie

    @property
    def places(self) -> tuple[str, ...]:
        """What each of its numbers is for."""
        return tuple(".".join(filter(None, (self.component or "", label))) for label in self.tie.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """An ordered list of genes, and the numbers that stay as they are.

    Each of `searched`, (source, parameter) pairs with their ranges, has a gene for every number of every part.
    `fixed` holds numbers under "parameter" (every source) or "source.parameter" (one source, which wins).
    """

    source_names: tuple[str, ...]
    n_blocks: int
    parts: tuple[Part, ...]
    searched: Mapping[tuple[str, str], Range]
    fixed: Mapping[str, UnitValues]
    genes: tuple[Gene, ...] = field(init=False)

    def __post_init__(self) -> None:
        genes = tuple(
            Gene(source=source, parameter=parameter, place=place, low=low, high=high)
            for (source, parameter), (low, high) in self.searched.items()
            for part in self.parts
            for place in part.places
        )
        object.__setattr__(self, "genes", genes)

    @property
    def dim(self) -> int:
        """How many genes there are."""
        return len(self.genes)

    @property
    def initial(self) -> Genome:
        """The point a search starts from."""
        return np.array([gene.coordinate(gene.initial) for gene in self.genes], dtype=np.float64)

    @property
    def differs_by_unit(self) -> bool:
        """Whether a candidate may have a number for one unit and another for the next."""
        return any(len(part.tie.labels) > 1 for part in self.parts)

    @property
    def differs_by_component(self) -> bool:
        """Whether a candidate may have a number for one component and another for the next."""
        return any(part.component is not None for part in self.parts)

    def decode(self, genome: Genome) -> Parameters:
        """Return the parameters of each source that `genome` (shape (dim,), in the unit cube) stands for.

        Raises ValueError when the genome has another shape or leaves the cube.
        """
        if genome.shape != (self.dim,) or not bool(np.all((genome >= 0.0) & (genome <= 1.0))):
            raise ValueError(f"a genome of this space has shape ({self.dim},) and lies in [0, 1], not {genome}")
        coming = iter([gene.value(x) for gene, x in zip(self.genes, genome.tolist(), strict=True)])
        found: dict[tuple[str, str], Values] = {}
        for place, (low, high) in self.searched.items():
            by_part = {
                part.component: part.tie.spread([next(coming) for _ in part.tie.labels], low=low, high=high)
                for part in self.parts
            }
            found[place] = by_part[None] if None in by_part else ByComponent(**by_part)  # type: ignore[arg-type]
        return {
            name: SourceParameters(
                **{
                    parameter: found.get((name, parameter), self._kept(name, parameter))
                    for parameter in SOURCE_PARAMETERS
                }
            )
            for name in self.source_names
        }

    def encode(self, parameters: Parameters, *, but: Collection[str] = ()) -> Genome:
        """Return a genome that decodes to `parameters`, except those in `but`, whose genes are as at the start.

        A spline's knots are solved for: there the numbers come back to within 1e-9. Raises ConfigError for what is not
        of this space, or too far off.
        """
        genome = self.nearest(parameters, but=but)
        gap = self.gap(parameters, self.decode(genome), but=but)
        if gap.size > _AGREES:
            raise ConfigError(
                f"{gap.place}: {gap.given:g} is none of this space; the nearest that is is {gap.taken:g}."
            )
        return genome

    def nearest(self, parameters: Parameters, *, but: Collection[str] = ()) -> Genome:
        """Return the genome that decodes to what is nearest to `parameters`, by least squares within the ranges.

        Where a unit's components share a number, theirs count as their mean. Raises ConfigError when they are for other
        sources, a list does not have one number per unit, or a number that the space keeps fixed is another.
        """
        self._check(parameters, but=but)
        numbers: list[float] = []
        for (source, parameter), (low, high) in self.searched.items():
            values: Values = getattr(parameters[source], parameter)
            for part in self.parts:
                if parameter in but:
                    numbers += [(low + high) / 2] * len(part.tie.labels)
                else:
                    wanted = [self._wanted(values, unit, part.component) for unit in part.tie.units]
                    numbers += part.tie.fitted(wanted, low=low, high=high)
        return np.array(
            [gene.coordinate(number) for gene, number in zip(self.genes, numbers, strict=True)], dtype=np.float64
        )

    def gap(self, given: Parameters, taken: Parameters, *, but: Collection[str] = ()) -> "Gap":
        """Return where two sets of numbers are furthest apart, among what is searched and has tensors."""
        cells = (
            (source, parameter, component, unit)
            for source, parameter in self.searched
            if parameter not in but
            for component in COMPONENTS
            for unit in units_of(component, n_blocks=self.n_blocks)
        )
        gaps = (
            Gap(
                place=f"{source}.{parameter} ({component}, {unit_name(unit, n_blocks=self.n_blocks)})",
                given=value_at(getattr(given[source], parameter), unit, component),
                taken=value_at(getattr(taken[source], parameter), unit, component),
            )
            for source, parameter, component, unit in cells
        )
        return max(gaps, key=lambda gap: gap.size, default=Gap(place="", given=0.0, taken=0.0))

    def _wanted(self, values: Values, unit: int, component: Component | None) -> float:
        if component is not None:
            return value_at(values, unit, component)
        own = [value_at(values, unit, each) for each in components_of(unit, n_blocks=self.n_blocks)]
        return own[0] if len(set(own)) == 1 else math.fsum(own) / len(own)

    def _kept(self, source: str, parameter: str) -> UnitValues:
        shared = self.fixed.get(parameter, SOURCE_PARAMETERS[parameter].default)
        return self.fixed.get(f"{source}.{parameter}", shared)

    def _check(self, parameters: Parameters, *, but: Collection[str]) -> None:
        if set(parameters) != set(self.source_names):
            raise ConfigError(f"parameters are for {sorted(parameters)}, the space is for {sorted(self.source_names)}.")
        for source in self.source_names:
            for parameter in SOURCE_PARAMETERS:
                given: Values = getattr(parameters[source], parameter)
                for part in parts_of(given):
                    if isinstance(part, tuple) and len(part) != self.n_blocks + 2:
                        raise ConfigError(
                            f"{source}.{parameter}: {len(part)} numbers for {self.n_blocks + 2} units "
                            "(embedding, each block, head)."
                        )
                kept = self._kept(source, parameter)
                if parameter not in but and (source, parameter) not in self.searched and not _same(given, kept):
                    raise ConfigError(f"{source}.{parameter} is {given}, but this space keeps it at {kept}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A place, and how far a number there is from the one that a space has for it."""

    place: str
    given: float
    taken: float

    @property
    def size(self) -> float:
        """How far it is."""
        return abs(self.given - self.taken)


def _same(left: Values, right: Values) -> bool:
    if isinstance(left, ByComponent) or isinstance(right, ByComponent):
        return left == right or len({*numbers_of(left), *numbers_of(right)}) == 1
    if isinstance(left, tuple) and isinstance(right, tuple):
        return left == right
    return set(numbers_of(left)) == set(numbers_of(right)) and len(set(numbers_of(left))) == 1
