"""The numbers of a candidate of a search in parameter space, as people read them: one a unit that has tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.candidate import Genome
from evovlm.recipes.recipe import COMPONENTS, Component, Values, value_at
from evovlm.recipes.search_space import Gene
from evovlm.recipes.unit_ties import KNOT, unit_name, units_of
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal

ALL = "all units"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitNumbers:
    """A parameter of a source, of one `component` where those differ: a value a unit, None where it has no tensors.

    `knots` are the numbers that were searched, where those of the blocks are interpolated: the place on the axis of
    units (embedding 0, block i at i + 1), which may lie between two blocks, and the number there.
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
class WinnerNumbers:
    """All numbers of a recipe by the `units` that they are for, and what it has of the space's choices by name."""

    units: tuple[str, ...] = ()
    numbers: tuple[UnitNumbers, ...] = ()
    chosen: Mapping[str, object] = field(default_factory=dict)


def numbers_of_entry(config: EvolveConfig, journal: Journal, entry: Entry) -> WinnerNumbers:
    """Return what an entry of a search's journal stands for."""
    n_blocks = next(iter(journal.blocks.values()))
    space = config.recipe_space(template=config.template(relative_to=None), n_blocks=n_blocks)
    recipe = space.decode(entry.genome)
    by_unit = space.numbers.differs_by_unit
    units = range(n_blocks + 2) if by_unit else range(1)
    knots = _knots(config, entry.genome, genes=space.numbers.genes, n_blocks=n_blocks)

    def number(values: Values, component: Component | None, unit: int) -> float | None:
        if component is None:
            return value_at(values, unit)
        there = not by_unit or unit in units_of(component, n_blocks=n_blocks)
        return value_at(values, unit, component) if there else None

    numbers = tuple(
        UnitNumbers(
            source=source,
            parameter=parameter,
            component=component,
            values=tuple(number(getattr(recipe.parameters[source], parameter), component, unit) for unit in units),
            knots=knots.get((source, parameter, component), ()),
        )
        for source in sorted(recipe.parameters)
        for parameter in METHODS[recipe.method].parameters
        for component in (COMPONENTS if space.numbers.differs_by_component else (None,))
    )
    names = tuple(unit_name(unit, n_blocks=n_blocks) for unit in units) if by_unit else (ALL,)
    return WinnerNumbers(units=names, numbers=numbers, chosen=space.chosen(recipe))


def _knots(
    config: EvolveConfig, genome: Genome, *, genes: Sequence[Gene], n_blocks: int
) -> Mapping[tuple[str, str, Component | None], tuple[tuple[float, float], ...]]:
    """Return the knots by source, parameter and component, of those that have tensors in the blocks."""
    n_knots = config.least_blocks
    found: dict[tuple[str, str, Component | None], tuple[tuple[float, float], ...]] = {}
    for gene, x in zip(genes, genome.tolist(), strict=False):
        *named, label = gene.place.split(".")
        component: Component | None = next((each for each in COMPONENTS if [each] == named), None)
        if label.startswith(KNOT) and component != "rest":
            place = 1 + int(label.removeprefix(KNOT)) * (n_blocks - 1) / (n_knots - 1)
            key = (gene.source, gene.parameter, component)
            found[key] = (*found.get(key, ()), (place, gene.value(x)))
    return found
