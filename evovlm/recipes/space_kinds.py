"""The table of search spaces.

A space is how the units of a model are tied (one number for all, one for each, a spline, groups) times whether its
components are (all share a number, or attention, MLP, norms and the rest have their own).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from evovlm.errors import ConfigError
from evovlm.plugins import PluginTable
from evovlm.recipes.search_space import Part, SearchSpace
from evovlm.recipes.source_values import BASE_COMPONENTS, COMPONENTS, SOURCE_PARAMETERS, Component, UnitValues
from evovlm.recipes.space import Range
from evovlm.recipes.unit_ties import UnitTie, all_tied, none_tied, tied_by_spline, tied_in_groups, units_of

PARAMETERS = ("weight", "density")

RANGES: Mapping[str, Range] = {
    "weight": (0.0, 1.0),
    "density": (0.0, 1.0),
    "gamma": (0.0, 0.1),
    "epsilon": (0.0, 0.3),
}
"""Where a parameter is searched unless a range is given; a search starts in the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceKind:
    """A row of the table: `tie` (number of blocks, options) ties the units, `options` are its options' defaults."""

    summary: str
    tie: Callable[..., UnitTie]
    options: Mapping[str, int] = field(default_factory=dict)
    by_component: bool = False

    def parts(self, n_blocks: int, options: Mapping[str, int], further: Collection[Component] = ()) -> tuple[Part, ...]:
        """Return the parts that have separate numbers; `further` components are those that only some models have.

        Raises ConfigError for options that do not suit the model.
        """
        tie = self.tie(n_blocks, **{**self.options, **options})
        if not self.by_component:
            return (Part(component=None, tie=tie),)
        components = (*COMPONENTS, *(each for each in BASE_COMPONENTS if each in further))
        return tuple(Part(component=each, tie=tie.only(units_of(each, n_blocks=n_blocks))) for each in components)


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


SPACES: Mapping[str, SpaceKind] = PluginTable(
    "evovlm.spaces",
    {**_UNITS, **dict(_by_component(name, kind) for name, kind in _UNITS.items())},
    row_type=SpaceKind,
)
"""Every way to tie units, and each again with a number per component."""


def search_space(
    kind: str,
    source_names: Sequence[str],
    n_blocks: int,
    *,
    parameters: Sequence[str] = PARAMETERS,
    ranges: Mapping[str, Range] | None = None,
    fixed: Mapping[str, UnitValues] | None = None,
    options: Mapping[str, int] | None = None,
    further: Collection[Component] = (),
) -> SearchSpace:
    """Return the space of a kind over `parameters` of the sources, with numbers for `further` components.

    `ranges` (low, high) and `fixed` numbers are under "parameter" (every source) or "source.parameter" (one source,
    which wins); what has neither is searched in `RANGES`. Raises ConfigError for an empty range, one that leaves what
    the parameter may be, a name that does not exist, or options that do not suit the model.
    """
    names, asked, kept = tuple(source_names), {**RANGES, **(ranges or {})}, fixed or {}
    _check_names(names, parameters=parameters, ranges=asked, fixed=kept)
    searched = {
        (source, parameter): asked.get(f"{source}.{parameter}", asked[parameter])
        for source in names
        for parameter in SOURCE_PARAMETERS
        if parameter in parameters and parameter not in kept and f"{source}.{parameter}" not in kept
    }
    return SearchSpace(
        source_names=names,
        n_blocks=n_blocks,
        parts=SPACES[kind].parts(n_blocks, options or {}, further),
        searched=searched,
        fixed=dict(kept),
    )


def _check_names(
    source_names: Sequence[str],
    *,
    parameters: Sequence[str],
    ranges: Mapping[str, Range],
    fixed: Mapping[str, UnitValues],
) -> None:
    owned = (f"{source}.{parameter}" for source in source_names for parameter in SOURCE_PARAMETERS)
    known = {*SOURCE_PARAMETERS, *owned}
    for what, given in (("ranges", ranges), ("fixed", fixed)):
        unknown = sorted(set(given) - known)
        if unknown:
            raise ConfigError(f"{what}: '{unknown[0]}' names no parameter; known are {', '.join(sorted(known))}.")
    for parameter in parameters:
        if parameter not in SOURCE_PARAMETERS:
            raise ConfigError(f"parameters: '{parameter}' is unknown; a source has {', '.join(SOURCE_PARAMETERS)}.")
    for name, ends in ranges.items():
        problem = range_problem(name.rsplit(".", 1)[-1], ends)
        if problem is not None:
            raise ConfigError(f"{name}: {problem}")


def range_problem(parameter: str, ends: Range) -> str | None:
    """Return why `ends` are not a range of a parameter; None where they are."""
    low, high = ends
    row = SOURCE_PARAMETERS[parameter]
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"[{low:g}, {high:g}] is not a range; the first number must be the smaller."
    if not (row.low <= low and high <= row.high):
        return f"[{low:g}, {high:g}] leaves [{row.low:g}, {row.high:g}]; {row.meaning}."
    return None
