"""How the units of a model are tied: a few numbers determine one number per unit, and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.errors import ConfigError
from evovlm.recipes.source_values import Component, UnitValues

Row: TypeAlias = tuple[tuple[int, float], ...]
"""A unit's number as a sum: which of the tied numbers, times what. The factors sum to 1."""

# Rounded to this many decimals, so that a solver's last bits, which differ by machine, make no difference.
_PLACES = 12

KNOT = "knot"
"""What a spline's labels begin with, before the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTie:
    """Numbers, one for each of `labels`, that determine one per unit (embedding, block 0..L-1, head).

    A unit's number is the sum that its row says, clipped to the range. `units` are those that have tensors: the others
    take the number of the nearest of these, and make no difference.
    """

    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    units: tuple[int, ...]

    def only(self, units: Sequence[int]) -> "UnitTie":
        """Return the tie of a part of a model that has tensors only in `units`."""
        rows = tuple(self.rows[min(units, key=lambda own: abs(own - unit))] for unit in range(len(self.rows)))
        used = sorted({index for row in rows for index, _ in row})
        places = {index: place for place, index in enumerate(used)}
        return replace(
            self,
            labels=tuple(self.labels[index] for index in used),
            rows=tuple(tuple((places[index], factor) for index, factor in row) for row in rows),
            units=tuple(units),
        )

    def spread(self, numbers: Sequence[float], *, low: float, high: float) -> UnitValues:
        """Return the number of each unit, or the one of all."""
        if len(numbers) == 1:
            return numbers[0]
        return tuple(min(max(_sum(row, numbers), low), high) for row in self.rows)

    def fitted(self, values: Sequence[float], *, low: float, high: float) -> list[float]:
        """Return the numbers in [low, high] whose spread is nearest to `values`, one for each of `units`.

        Nearest by least squares. A value at an end of the range may have been clipped to it.
        """
        inside = [min(max(value, low), high) for value in values]
        if any(len(self.rows[unit]) > 1 for unit in self.units):
            return self._solved(np.array(inside), low=low, high=high)
        found: list[list[float]] = [[] for _ in self.labels]
        for unit, value in zip(self.units, inside, strict=True):
            found[self.rows[unit][0][0]].append(value)
        # The mean of equal numbers need not be that number.
        return [own[0] if len(set(own)) == 1 else math.fsum(own) / len(own) for own in found]

    def _solved(self, values: npt.NDArray[np.float64], *, low: float, high: float) -> list[float]:
        wanted = (values - low) / (high - low)
        factors = np.zeros((len(self.units), len(self.labels)))
        for place, unit in enumerate(self.units):
            for index, factor in self.rows[unit]:
                factors[place, index] = factor
        # A value at an end of the range may have been clipped: it may exceed the end by any amount.
        ends = [place for place, value in enumerate(wanted) if value in (0.0, 1.0)]
        excess = np.zeros((len(self.units), len(ends)))
        for column, place in enumerate(ends):
            excess[place, column] = 1.0 if wanted[place] == 0.0 else -1.0
        most = np.concatenate([np.ones(len(self.labels)), np.full(len(ends), np.inf)])
        # scipy takes half a second to import, and only a start in this space needs it.
        from scipy.optimize import lsq_linear

        solved = lsq_linear(np.hstack([factors, excess]), wanted, bounds=(0.0, most), method="bvls", tol=1e-15)
        numbers: list[float] = np.clip(low + solved.x[: len(self.labels)] * (high - low), low, high).tolist()
        return numbers


def unit_name(unit: int, *, n_blocks: int) -> str:
    """Return "embedding", "block0".."block{L-1}" or "head" for unit 0, 1..L or L + 1."""
    if unit == 0:
        return "embedding"
    return "head" if unit == n_blocks + 1 else f"block{unit - 1}"


def units_of(component: Component, *, n_blocks: int) -> range | tuple[int, int]:
    """Return the units that have tensors of a component; the head's unit has the final norm, too."""
    if component == "rest":
        return (0, n_blocks + 1)
    return range(1, n_blocks + (2 if component == "norms" else 1))


def components_of(unit: int, *, n_blocks: int) -> tuple[Component, ...]:
    """Return the components that a unit has tensors of."""
    if unit == 0:
        return ("rest",)
    return ("norms", "rest") if unit == n_blocks + 1 else ("attention", "mlp", "norms")


def all_tied(n_blocks: int) -> UnitTie:
    """Tie all units: one number for the whole model."""
    return _tie(("",), [((0, 1.0),)] * (n_blocks + 2))


def none_tied(n_blocks: int) -> UnitTie:
    """Tie no units: a number for the embedding, each block, and the head."""
    labels = tuple(unit_name(unit, n_blocks=n_blocks) for unit in range(n_blocks + 2))
    return _tie(labels, [((unit, 1.0),) for unit in range(n_blocks + 2)])


def tied_in_groups(n_blocks: int, *, group: int) -> UnitTie:
    """Tie each `group` consecutive blocks; the last group may be smaller, embedding and head have a number each."""
    firsts = range(0, n_blocks, group)
    groups = [f"blocks{first}-{min(first + group, n_blocks) - 1}" for first in firsts]
    rows: list[Row] = [((1 + block // group, 1.0),) for block in range(n_blocks)]
    return _tie(("embedding", *groups, "head"), [((0, 1.0),), *rows, ((len(groups) + 1, 1.0),)])


def tied_by_spline(n_blocks: int, *, knots: int) -> UnitTie:
    """Tie the blocks by a cubic spline (scipy's, not-a-knot) through knots at linspace(0, L - 1, knots).

    The embedding takes block 0's number, the final norm and the head the last block's (protocol, section 4). Raises
    ConfigError for fewer blocks than knots: some numbers would make no difference.
    """
    if knots > n_blocks:
        raise ConfigError(
            f"knots: {knots} is more than the models have blocks ({n_blocks}).\n"
            "    Take fewer knots, or the space `layer`, which has a number for each block."
        )
    # scipy takes half a second to import.
    from scipy.interpolate import CubicSpline

    basis = CubicSpline(np.linspace(0, n_blocks - 1, knots), np.eye(knots))(np.arange(n_blocks))
    rows = [_row(factors) for factors in basis]
    return _tie(tuple(f"{KNOT}{index}" for index in range(knots)), [rows[0], *rows, rows[-1]])


def _row(factors: npt.NDArray[np.float64]) -> Row:
    rounded = np.round(factors, _PLACES)
    # So that equal numbers at all knots give that number everywhere.
    rounded[np.argmax(np.abs(rounded))] += 1.0 - math.fsum(rounded.tolist())
    return tuple((index, factor) for index, factor in enumerate(rounded.tolist()) if factor)


def _sum(row: Row, numbers: Sequence[float]) -> float:
    if len(row) == 1:
        return numbers[row[0][0]]
    return round(math.fsum(factor * numbers[index] for index, factor in row), _PLACES)


def _tie(labels: tuple[str, ...], rows: Sequence[Row]) -> UnitTie:
    return UnitTie(labels=labels, rows=tuple(rows), units=tuple(range(len(rows))))
