"""Locations of published data sets: the hub, its cache, or a local copy with the same columns.

`--data TASK=PATH` names a local copy, `--data TASK=hub:ID@REVISION` another one on the hub (either part may be left
out), and `--data TASK=cached:` the data that was loaded before, without a request to the hub.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evovlm.assets import asset_path
from evovlm.errors import TaskError
from evovlm.tasks.hub import HubSplit, hub_rows
from evovlm.tasks.own.tables import read_files
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, check_samples

CACHED = Path("cached:")
"""Given instead of a path: read only the hub's cache."""

_HUB = "hub:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published data set: its id, its name for each of a task's splits, and its configs (all are read).

    `folder` and `revision` say which part of the repository is read. For a set that is not on the hub, `elsewhere` says
    where to get it. `columns` are those of a table without a header, `parts` possible names of its local files.
    """

    hub_id: str | None
    splits: Mapping[Split, str]
    configs: tuple[str | None, ...] = (None,)
    folder: str | None = None
    revision: str | None = None
    elsewhere: str = ""
    columns: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def rows(
        self, split: Split, data: Path | None, *, on_bad_row: Callable[[TaskError], None] | None = None
    ) -> Iterator[Row]:
        """Yield the rows of a split; `data` replaces the usual location, `on_bad_row` is that of `read_files`.

        Raises TaskError when no data is found.
        """
        if data is not None and data != CACHED and not is_on_hub(data):
            parts = (split.value, self.splits[split], *self.parts)
            yield from read_files(data, columns=self.columns, parts=parts, on_bad_row=on_bad_row)
            return
        for place in self._places(split, data):
            yield from hub_rows(place, cached=data == CACHED)

    def _places(self, split: Split, data: Path | None) -> list[HubSplit]:
        hub_id, folder, revision = self.hub_id, self.folder, self.revision
        if data is not None and is_on_hub(data):
            named, revision = hub_place(data)
            # Another copy or another revision may have other folders.
            hub_id, folder = named or hub_id, None
        if hub_id is None:
            raise TaskError(f"This data set is not on the hub: get it from {self.elsewhere} and name it with --data.")
        configs = self.configs if folder is None else (None,)
        return [
            HubSplit(id=hub_id, config=config, split=self.splits[split], folder=folder, revision=revision)
            for config in configs
        ]

    def checked(self, samples: Iterator[Sample], *, split: Split, data: Path | None) -> tuple[Sample, ...]:
        """Return the samples. Raises TaskError without samples, or for an id that occurs twice."""
        where = str(data) if data not in (None, CACHED) else f"{self.hub_id} ({self.splits[split]})"
        return check_samples(tuple(samples), where=where)


def is_on_hub(data: Path | str) -> bool:
    """Return whether `hub:ID@REVISION` is given instead of a path."""
    return str(data).startswith(_HUB)


def hub_place(data: Path | str) -> tuple[str, str | None]:
    """Return the id and the revision of `hub:ID@REVISION`; an omitted id is empty."""
    named, _, revision = str(data).removeprefix(_HUB).partition("@")
    return named, revision or None


def embedded_file(name: str) -> Path:
    """Return the path of the embedded task file of that name. Raises TaskError when it has not been built."""
    path = asset_path(f"zoo/tasks/{name}.jsonl")
    if not path.is_file():
        raise TaskError(f"{path}: the embedded task data is missing. `make zoo` builds it; the wheel contains it.")
    return path


def embedded_samples(
    name: str, *, split: Split, data: Path | None, make: Callable[[Row, str], Sample]
) -> tuple[Sample, ...]:
    """Return the samples that `make` builds from each row and its id; `data` replaces the embedded file of set `name`.

    Raises TaskError for missing or broken data.
    """
    path = data or embedded_file(f"{name}.{split}")
    rows = read_files(path, parts=(f"{name}.{split}", str(split)))
    samples = tuple(make(row, str(row.get("id") or number)) for number, row in enumerate(rows, start=1))
    return check_samples(samples, where=str(path))
