"""The numbers of a recipe as a space: a point of the unit cube is mapped to the numbers, and back."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.source_values import (
    BASE_COMPONENTS,
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
from evovlm.recipes.space import Gap, Gene, Range
from evovlm.recipes.unit_ties import KNOT, UnitTie, components_of, unit_name, units_of

Parameters: TypeAlias = Mapping[str, SourceParameters]
"""The numbers of each source, by its name."""

_AGREES = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The components (None: all together) that share numbers, and how their units are tied."""

    component: Component | None
    tie: UnitTie


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """An ordered list of genes, and the numbers that stay as they are.

    Each of `searched`, (source, parameter) pairs with their ranges, has a gene for every number of every part, named
    `source.parameter`, followed by `.embedding`, `.block3`, `.knot2`, `.attention.head` where it is for a part of the
    model. A search starts in the middle of every range. `fixed` holds numbers under "parameter" (every source) or
    "source.parameter" (one source, which wins).
    """

    source_names: tuple[str, ...]
    n_blocks: int
    parts: tuple[Part, ...]
    searched: Mapping[tuple[str, str], Range]
    fixed: Mapping[str, UnitValues]
    genes: tuple[Gene, ...] = field(init=False)

    def __post_init__(self) -> None:
        genes = tuple(
            Gene(name=".".join(filter(None, (source, parameter, part.component, label))), low=low, high=high)
            for (source, parameter), (low, high) in self.searched.items()
            for part in self.parts
            for label in part.tie.labels
        )
        object.__setattr__(self, "genes", genes)

    @property
    def dim(self) -> int:
        """How many genes there are."""
        return len(self.genes)

    @property
    def initial(self) -> Genome:
        """The point a search starts from."""
        return np.array([gene.coordinate((gene.low + gene.high) / 2) for gene in self.genes], dtype=np.float64)

    @property
    def differs_by_unit(self) -> bool:
        """Whether units may have different numbers."""
        return any(len(part.tie.labels) > 1 for part in self.parts)

    @property
    def ranges(self) -> Mapping[str, Range]:
        """The range in which each parameter is searched, over all sources."""
        found: dict[str, Range] = {}
        for (_, parameter), (low, high) in self.searched.items():
            before = found.get(parameter, (low, high))
            found[parameter] = (min(low, before[0]), max(high, before[1]))
        return found

    def decode(self, genome: Genome) -> Parameters:
        """Return the parameters of each source that `genome` (shape (dim,), in the unit cube) decodes to.

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
            found[place] = by_part[None] if None in by_part else _by_component(by_part)
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

        A spline's knots are solved for: there the numbers come back to within 1e-9. Raises ConfigError for numbers that
        are not in this space or too far from it.
        """
        genome = self.nearest(parameters, but=but)
        gap = self.gap(parameters, self.decode(genome), but=but)
        if gap.size > _AGREES:
            raise ConfigError(
                f"{gap.place}: {gap.given:g} is not in this space; the nearest number in it is {gap.taken:g}."
            )
        return genome

    def nearest(self, parameters: Parameters, *, but: Collection[str] = ()) -> Genome:
        """Return the genome that decodes to what is nearest to `parameters`, by least squares within the ranges.

        Where a unit's components share a number, the mean of their numbers counts. Raises ConfigError when they are for
        other sources, a list does not have one number per unit, or a number that the space keeps fixed is another.
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

    def knots(self, genome: Genome) -> Mapping[tuple[str, str, Component | None], tuple[tuple[float, float], ...]]:
        """Return the knots of a genome by source, parameter and component, of components with tensors in the blocks.

        A knot is its position on the axis of units (embedding 0, block i at i + 1) and the number there.
        """
        n_knots = max(sum(label.startswith(KNOT) for label in part.tie.labels) for part in self.parts)
        found: dict[tuple[str, str, Component | None], tuple[tuple[float, float], ...]] = {}
        coming = iter([gene.value(x) for gene, x in zip(self.genes, genome.tolist(), strict=True)])
        for source, parameter in self.searched:
            for part in self.parts:
                knots = [(label, next(coming)) for label in part.tie.labels]
                if part.component != "rest" and knots[0][0].startswith(KNOT):
                    found[source, parameter, part.component] = tuple(
                        (1 + int(label.removeprefix(KNOT)) * (self.n_blocks - 1) / (n_knots - 1), number)
                        for label, number in knots
                    )
        return found

    def gap(self, given: Parameters, taken: Parameters, *, but: Collection[str] = ()) -> "Gap":
        """Return where two sets of numbers differ most, among the searched numbers of units with tensors."""
        cells = (
            (source, parameter, component, unit)
            for source, parameter in self.searched
            if parameter not in but
            for component in (*COMPONENTS, *BASE_COMPONENTS)
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
        return max(gaps, key=lambda gap: gap.size, default=Gap())

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
                if isinstance(given, ByComponent) and given.tensors:
                    raise ConfigError(
                        f"{source}.{parameter}: has numbers for single tensors ({given.tensors[0][0]}), and a search "
                        "has numbers for components."
                    )
                for part in parts_of(given):
                    if isinstance(part, tuple) and len(part) != self.n_blocks + 2:
                        raise ConfigError(
                            f"{source}.{parameter}: {len(part)} numbers for {self.n_blocks + 2} units "
                            "(embedding, each block, head)."
                        )
                kept = self._kept(source, parameter)
                if parameter not in but and (source, parameter) not in self.searched and not _same(given, kept):
                    raise ConfigError(f"{source}.{parameter} is {given}, but this space keeps it at {kept}.")


def _by_component(by_part: Mapping[Component | None, UnitValues]) -> ByComponent:
    further = tuple((name, by_part[name]) for name in sorted(BASE_COMPONENTS) if name in by_part)
    return ByComponent(**{name: by_part[name] for name in COMPONENTS}, further=further)  # type: ignore[arg-type]


def _same(left: Values, right: Values) -> bool:
    if isinstance(left, ByComponent) or isinstance(right, ByComponent):
        return left == right or len({*numbers_of(left), *numbers_of(right)}) == 1
    if isinstance(left, tuple) and isinstance(right, tuple):
        return left == right
    return set(numbers_of(left)) == set(numbers_of(right)) and len(set(numbers_of(left))) == 1
