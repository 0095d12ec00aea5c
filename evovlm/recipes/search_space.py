"""The spaces a search moves in: each maps a point of the unit cube to the numbers of a recipe, and back.

A space is how the units of a model are tied (one number for all, one for each, a spline, groups) times whether its
components are (all share a number, or attention, MLP, norms and the rest have their own).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
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
from evovlm.recipes.unit_ties import (
    UnitTie,
    all_tied,
    components_of,
    none_tied,
    tied_by_spline,
    tied_in_groups,
    unit_name,
    units_of,
)

Range: TypeAlias = tuple[float, float]
Parameters: TypeAlias = Mapping[str, SourceParameters]
"""The numbers of each source, by its name."""

PARAMETERS = ("weight", "density")

RANGES: Mapping[str, Range] = {
    "weight": (0.0, 1.0),
    "density": (0.0, 1.0),
    "gamma": (0.0, 0.1),
    "epsilon": (0.0, 0.3),
}
"""Where a parameter is searched unless a range is given; a search starts in the middle."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceKind:
    """A row of the table: `tie` (number of blocks, options) ties the units, `options` are its options' defaults."""

    summary: str
    tie: Callable[..., UnitTie]
    options: Mapping[str, int] = field(default_factory=dict)
    by_component: bool = False

    def parts(self, n_blocks: int, options: Mapping[str, int]) -> tuple[Part, ...]:
        """Return what has numbers of its own. Raises ConfigError for options that do not suit the model."""
        tie = self.tie(n_blocks, **{**self.options, **options})
        if not self.by_component:
            return (Part(component=None, tie=tie),)
        return tuple(Part(component=each, tie=tie.only(units_of(each, n_blocks=n_blocks))) for each in COMPONENTS)


_UNITS: Mapping[str, SpaceKind] = {
    "model": SpaceKind(summary="One number for the whole model.", tie=all_tied),
    "layer": SpaceKind(summary="One number per unit: the embedding, each block, the head.", tie=none_tied),
    "interpolated": SpaceKind(
        summary="Numbers at a few knots, a cubic spline between them.", tie=tied_by_spline, options={"knots": 5}
    ),
    "grouped": SpaceKind(
        summary="One number per group of blocks, for the embedding, the head.", tie=tied_in_groups, options={"group": 4}
    ),
}

BY_COMPONENT = "component"


def _by_component(name: str, kind: SpaceKind) -> tuple[str, SpaceKind]:
    summary = f"{kind.summary.rstrip('.')}; attention, MLP, norms, the rest have their own."
    product = BY_COMPONENT if name == "model" else f"{BY_COMPONENT} x {name}"
    return product, SpaceKind(summary=summary, tie=kind.tie, options=kind.options, by_component=True)


SPACES: Mapping[str, SpaceKind] = {**_UNITS, **dict(_by_component(name, kind) for name, kind in _UNITS.items())}
"""Every way to tie units, and each again with the components apart."""


def search_space(
    kind: str,
    source_names: Sequence[str],
    n_blocks: int,
    *,
    parameters: Sequence[str] = PARAMETERS,
    ranges: Mapping[str, Range] | None = None,
    fixed: Mapping[str, UnitValues] | None = None,
    options: Mapping[str, int] | None = None,
) -> SearchSpace:
    """Return the space of a kind over `parameters` of the sources.

    `ranges` (low, high) and `fixed` numbers are under "parameter" (every source) or "source.parameter" (one source,
    which wins); what has neither is searched in `RANGES`. Raises ConfigError for an empty range, one that leaves what
    the parameter may be, a name that does not exist, or options that do not suit the model.
    """
    names, asked, kept = tuple(source_names), {**RANGES, **(ranges or {})}, fixed or {}
    known = {*SOURCE_PARAMETERS, *(f"{source}.{parameter}" for source in names for parameter in SOURCE_PARAMETERS)}
    for what, given in (("ranges", asked), ("fixed", kept)):
        unknown = sorted(set(given) - known)
        if unknown:
            raise ConfigError(f"{what}: '{unknown[0]}' names no parameter; known are {', '.join(sorted(known))}.")
    for parameter in parameters:
        if parameter not in SOURCE_PARAMETERS:
            raise ConfigError(f"parameters: '{parameter}' is unknown; a source has {', '.join(SOURCE_PARAMETERS)}.")
    searched = {
        (source, parameter): asked.get(f"{source}.{parameter}", asked[parameter])
        for source in names
        for parameter in SOURCE_PARAMETERS
        if parameter in parameters and parameter not in kept and f"{source}.{parameter}" not in kept
    }
    for name, ends in asked.items():
        problem = range_problem(name.rsplit(".", 1)[-1], ends)
        if problem is not None:
            raise ConfigError(f"{name}: {problem}")
    return SearchSpace(
        source_names=names,
        n_blocks=n_blocks,
        parts=SPACES[kind].parts(n_blocks, options or {}),
        searched=searched,
        fixed=dict(kept),
    )


def range_problem(parameter: str, ends: Range) -> str | None:
    """Return why `ends` are no range of a parameter; None where they are one."""
    low, high = ends
    row = SOURCE_PARAMETERS[parameter]
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"[{low:g}, {high:g}] is not a range; the first number must be the smaller."
    if not (row.low <= low and high <= row.high):
        return f"[{low:g}, {high:g}] leaves [{row.low:g}, {row.high:g}]; {row.meaning}."
    return None


def _same(left: Values, right: Values) -> bool:
    if isinstance(left, ByComponent) or isinstance(right, ByComponent):
        return left == right or len({*numbers_of(left), *numbers_of(right)}) == 1
    if isinstance(left, tuple) and isinstance(right, tuple):
        return left == right
    return set(numbers_of(left)) == set(numbers_of(right)) and len(set(numbers_of(left))) == 1
