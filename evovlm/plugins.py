"""Tables whose rows other installed packages can add to, through entry points.

    [project.entry-points."evovlm.methods"]
    its_name = "its_package.its_module:ITS_ROW"

The groups are evovlm.methods, evovlm.tasks, evovlm.metrics, evovlm.optimizers, evovlm.spaces and
evovlm.searches.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar

from evovlm.errors import FOREIGN_ERRORS, PluginError, first_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Row = TypeVar("Row")


class PluginTable(Mapping[str, Row], Generic[Row]):
    """Rows by name: evovlm's own, then those that installed packages add to the entry-point group.

    The names come from the packages' metadata, which is read once, when a name is asked for that is not evovlm's own
    or when the names are listed. A package is imported when its row is used, so a broken package stops only what uses
    it. Reading a row or listing the names raises PluginError for an entry point that cannot be used.
    """

    def __init__(self, group: str, rows: Mapping[str, Row], *, row_type: type[Row]) -> None:
        self._group, self._own, self._row_type = group, rows, row_type
        self._loaded: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._added[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._added

    def __len__(self) -> int:
        return len(self._own) + len(self._added)

    @cached_property
    def _added(self) -> "Mapping[str, EntryPoint]":
        """The entry points of the group by name, in the order of their names."""
        # Takes a tenth of a second, which commands that use evovlm's own rows do not need.
        from importlib.metadata import entry_points

        found = sorted(entry_points(group=self._group), key=lambda point: (point.name, _package(point)))
        n_named = Counter(point.name for point in found)
        for point in found:
            if point.name in self._own:
                raise self._problem(point, "evovlm has a row of that name. Rename the entry point")
            if n_named[point.name] > 1:
                others = ", ".join(sorted(_package(other) for other in found if other.name == point.name))
                raise self._problem(point, f"several packages add a row of that name ({others}). Keep one of them")
        return {point.name: point for point in found}

    def _load(self, point: "EntryPoint") -> Row:
        try:
            row = point.load()
        except FOREIGN_ERRORS as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise self._problem(
                point, f"{point.value} cannot be imported ({reason}). Update or fix the package"
            ) from error
        if not isinstance(row, self._row_type):
            needed = self._row_type.__name__
            raise self._problem(point, f"{point.value} is a {type(row).__name__}, not a {needed}. Fix the package")
        name = getattr(row, "name", point.name)
        if name != point.name:
            raise self._problem(point, f"the row that it names is called '{name}'. Give both the same name")
        return row

    def _problem(self, point: "EntryPoint", problem: str) -> PluginError:
        return PluginError(
            f"The package {_package(point)} adds '{point.name}' to {self._group}, but {problem}, or uninstall "
            f"{_package(point)}."
        )


def _package(point: "EntryPoint") -> str:
    return "(unknown)" if point.dist is None else point.dist.name
