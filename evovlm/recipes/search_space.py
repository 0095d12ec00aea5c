"""The spaces a search moves in: each maps a point of the unit cube to the numbers of a recipe, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.recipe import ByComponent, SourceParameters, UnitValues, Values, value_at

PARAMETERS = ("weight", "density")
_WHEN_ABSENT = {"weight": 1.0, "density": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One named coordinate: a parameter of a source, for one unit or (unit None) for the whole model.

    The gene's 0 is `low` and its 1 is `high`; `initial` is the number a search starts from.
    """

    source: str
    parameter: str
    unit: int | None
    n_blocks: int
    low: float
    high: float
    initial: float

    @property
    def name(self) -> str:
        """`source.parameter`, followed by `.embedding`, `.block3` or `.head` where the gene is for one unit."""
        whole = f"{self.source}.{self.parameter}"
        return whole if self.unit is None else f"{whole}.{unit_name(self.unit, n_blocks=self.n_blocks)}"


def unit_name(unit: int, *, n_blocks: int) -> str:
    """Return "embedding", "block0".."block{L-1}" or "head" for unit 0, 1..L or L + 1."""
    if unit == 0:
        return "embedding"
    return "head" if unit == n_blocks + 1 else f"block{unit - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """An ordered list of genes, and the numbers that stay as they are.

    `fixed` holds numbers under "parameter" (every source) or "source.parameter" (one source, which wins).
    """

    source_names: tuple[str, ...]
    n_blocks: int
    genes: tuple[Gene, ...]
    fixed: Mapping[str, UnitValues]

    @property
    def dim(self) -> int:
        """How many genes there are."""
        return len(self.genes)

    @property
    def initial(self) -> Genome:
        """The point a search starts from."""
        return np.array([_to_unit(gene, gene.initial) for gene in self.genes], dtype=np.float64)

    def decode(self, genome: Genome) -> Mapping[str, SourceParameters]:
        """Return the parameters of each source that `genome` (shape (dim,), in the unit cube) stands for.

        Raises ValueError when the genome has another shape or leaves the cube.
        """
        if genome.shape != (self.dim,) or not bool(np.all((genome >= 0.0) & (genome <= 1.0))):
            raise ValueError(f"a genome of this space has shape ({self.dim},) and lies in [0, 1], not {genome}")
        found: dict[tuple[str, str], list[float]] = {}
        shared: set[tuple[str, str]] = set()
        for gene, coordinate in zip(self.genes, genome.tolist(), strict=True):
            place = (gene.source, gene.parameter)
            value = gene.low + coordinate * (gene.high - gene.low)
            found.setdefault(place, []).append(min(max(value, gene.low), gene.high))
            if gene.unit is None:
                shared.add(place)
        values: dict[tuple[str, str], UnitValues] = {
            place: numbers[0] if place in shared else tuple(numbers) for place, numbers in found.items()
        }
        return {
            name: SourceParameters(
                weight=values.get((name, "weight"), self._unsearched(name, "weight")),
                density=values.get((name, "density"), self._unsearched(name, "density")),
            )
            for name in self.source_names
        }

    def encode(self, parameters: Mapping[str, SourceParameters]) -> Genome:
        """Return the genome that decodes to `parameters`.

        Raises ConfigError when a number lies outside its gene's range, when a list is given where the space has one
        number for all units, or when a number that the space keeps fixed is another.
        """
        self._check_fixed(parameters)
        return np.array([_to_unit(gene, self._number(gene, parameters)) for gene in self.genes], dtype=np.float64)

    def _number(self, gene: Gene, parameters: Mapping[str, SourceParameters]) -> float:
        values: Values = getattr(parameters[gene.source], gene.parameter)
        if isinstance(values, ByComponent):
            raise ConfigError(f"{gene.source}.{gene.parameter}: differs by component, but this space does not.")
        if gene.unit is None:
            if isinstance(values, tuple) and len(set(values)) > 1:
                raise ConfigError(f"{gene.name}: this space has one number for all units, not {len(values)}.")
            return value_at(values, 0)
        if isinstance(values, tuple) and len(values) != self.n_blocks + 2:
            raise ConfigError(f"{gene.source}.{gene.parameter}: {len(values)} numbers for {self.n_blocks + 2} units.")
        return value_at(values, gene.unit)

    def _unsearched(self, source: str, parameter: str) -> UnitValues:
        shared = self.fixed.get(parameter, _WHEN_ABSENT[parameter])
        return self.fixed.get(f"{source}.{parameter}", shared)

    def _check_fixed(self, parameters: Mapping[str, SourceParameters]) -> None:
        if set(parameters) != set(self.source_names):
            raise ConfigError(f"parameters are for {sorted(parameters)}, the space is for {sorted(self.source_names)}.")
        searched = {(gene.source, gene.parameter) for gene in self.genes}
        for source in self.source_names:
            for parameter in PARAMETERS:
                given: Values = getattr(parameters[source], parameter)
                kept = self._unsearched(source, parameter)
                if (source, parameter) not in searched and not _same(given, kept):
                    raise ConfigError(f"{source}.{parameter} is {given}, but this space keeps it at {kept}.")


class SpaceFactory(Protocol):
    """Builds a search space; ranges are (low, high), and a search starts in their middle."""

    def __call__(
        self,
        source_names: Sequence[str],
        n_blocks: int,
        *,
        parameters: Sequence[str] = PARAMETERS,
        weight_range: tuple[float, float] = (0.0, 1.0),
        density_range: tuple[float, float] = (0.0, 1.0),
        fixed: Mapping[str, UnitValues] | None = None,
    ) -> SearchSpace:
        """Return the space; raises ConfigError for an empty range or a name that does not exist."""
        ...


def model_space(
    source_names: Sequence[str],
    n_blocks: int,
    *,
    parameters: Sequence[str] = PARAMETERS,
    weight_range: tuple[float, float] = (0.0, 1.0),
    density_range: tuple[float, float] = (0.0, 1.0),
    fixed: Mapping[str, UnitValues] | None = None,
) -> SearchSpace:
    """One number per source and parameter, for the whole model."""
    ranges = {"weight": weight_range, "density": density_range}
    return _space((None,), source_names, n_blocks, _searched(parameters, ranges), fixed or {})


def layer_space(
    source_names: Sequence[str],
    n_blocks: int,
    *,
    parameters: Sequence[str] = PARAMETERS,
    weight_range: tuple[float, float] = (0.0, 1.0),
    density_range: tuple[float, float] = (0.0, 1.0),
    fixed: Mapping[str, UnitValues] | None = None,
) -> SearchSpace:
    """One number per source, parameter and unit: the embedding, each block, the head."""
    ranges = {"weight": weight_range, "density": density_range}
    return _space(tuple(range(n_blocks + 2)), source_names, n_blocks, _searched(parameters, ranges), fixed or {})


SPACES: Mapping[str, SpaceFactory] = {
    "model": model_space,
    "layer": layer_space,
}


def _searched(
    parameters: Sequence[str], ranges: Mapping[str, tuple[float, float]]
) -> Mapping[str, tuple[float, float]]:
    for parameter in parameters:
        if parameter not in ranges:
            raise ConfigError(f"parameters: '{parameter}' is unknown; a source has {' and '.join(PARAMETERS)}.")
        low, high = ranges[parameter]
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ConfigError(f"{parameter}: [{low}, {high}] is not a range; the first number must be the smaller.")
    low, high = ranges["density"]
    if "density" in parameters and not 0.0 <= low < high <= 1.0:
        raise ConfigError(f"density: [{low}, {high}] leaves [0, 1]; density is the share of entries kept.")
    return {parameter: ranges[parameter] for parameter in PARAMETERS if parameter in parameters}


def _space(
    units: tuple[int | None, ...],
    source_names: Sequence[str],
    n_blocks: int,
    ranges: Mapping[str, tuple[float, float]],
    fixed: Mapping[str, UnitValues],
) -> SearchSpace:
    known = {*PARAMETERS, *(f"{source}.{parameter}" for source in source_names for parameter in PARAMETERS)}
    unknown = sorted(set(fixed) - known)
    if unknown:
        raise ConfigError(f"fixed: '{unknown[0]}' names no parameter; known are {', '.join(sorted(known))}.")
    genes = tuple(
        Gene(
            source=source,
            parameter=parameter,
            unit=unit,
            n_blocks=n_blocks,
            low=low,
            high=high,
            initial=(low + high) / 2,
        )
        for source in source_names
        for parameter, (low, high) in ranges.items()
        if parameter not in fixed and f"{source}.{parameter}" not in fixed
        for unit in units
    )
    if not genes:
        raise ConfigError("the search space is empty: every parameter is fixed.")
    return SearchSpace(source_names=tuple(source_names), n_blocks=n_blocks, genes=genes, fixed=dict(fixed))


def _to_unit(gene: Gene, value: float) -> float:
    if not gene.low <= value <= gene.high:
        raise ConfigError(f"{gene.name}: {value} is outside the space's range [{gene.low}, {gene.high}].")
    return (value - gene.low) / (gene.high - gene.low)


def _same(left: Values, right: UnitValues) -> bool:
    if isinstance(left, ByComponent):
        return False
    if isinstance(left, tuple) and isinstance(right, tuple):
        return left == right
    many, one = (left, right) if isinstance(left, tuple) else (right, left)
    return set(many if isinstance(many, tuple) else (many,)) == {one}
