"""Which rows of the models each row of a merged tensor is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class SharedRows(NamedTuple):
    """Consecutive rows that are merged.

    Rows `row` .. `row + n_rows - 1` of the result are merged from as many rows of each model, from `starts[model]` on;
    models are named as in a recipe: "base", "host", "sources.NAME".
    """

    row: int
    n_rows: int
    starts: Mapping[str, int]


class NewRow(NamedTuple):
    """The row of a token that the host lacks: the mean of the rows (model, row) of this token in other models.

    It comes after the host's rows or, if the host is padded, is one of its padding rows.
    """

    row: int
    origins: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """How the rows of one tensor are made; the result has `n_rows`.

    `runs` are in the order of rows and do not overlap. A row that is in no run and not among `new` is the host's row of
    the same number. For tensors other than embedding and head (norms, projections) everything is one run.
    """

    n_rows: int
    runs: tuple[SharedRows, ...]
    new: tuple[NewRow, ...] = ()

    @staticmethod
    def leading(n_rows: int, *, of: int, models: tuple[str, ...]) -> "RowPlan":
        """Return the plan that merges the first `n_rows` rows by index and keeps the host's rows up to `of`."""
        run = SharedRows(row=0, n_rows=n_rows, starts=dict.fromkeys(models, 0))
        return RowPlan(n_rows=of, runs=(run,) if n_rows else ())

    def kept(self, n_host: int) -> tuple[range, ...]:
        """Return the ranges of rows that stay the host's; the host has `n_host` rows."""
        made = sorted(
            [*((run.row, run.row + run.n_rows) for run in self.runs), *((n.row, n.row + 1) for n in self.new)]
        )
        starts, stops = [0, *(stop for _, stop in made)], [*(start for start, _ in made), n_host]
        return tuple(range(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop)

    @property
    def n_merged(self) -> int:
        """The number of merged rows."""
        return sum(run.n_rows for run in self.runs)
