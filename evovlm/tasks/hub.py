"""Rows of a data set on the hub, through `datasets`; texts are read at once, pictures stay on disk until needed.

Offline (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE, which `datasets` reads at import) `datasets` returns the latest cached
version of a set, whatever revision was requested; a pinned commit is therefore checked.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from evovlm.errors import TaskError, first_line
from evovlm.recipes.hub import unreachable_reason
from evovlm.tasks.pictures import StoredPicture
from evovlm.tasks.row import Row

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BATCH = 1000
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSplit:
    """One split of a data set of the hub; `revision` is a branch, tag or commit.

    With `folder` it is the Parquet files in `folder/split` of the repository, instead of what the set declares.
    """

    id: str
    split: str
    config: str | None = None
    folder: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.id}{revision} ({', '.join(filter(None, (self.config, self.folder, self.split)))})"


def hub_rows(place: HubSplit, *, cached: bool = False) -> Iterator[Row]:
    """Yield the rows of a split; with `cached`, those of an earlier load, without a request to the hub.

    Raises TaskError, with what to do, when the data set is not available.
    """
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants

    from evovlm.recipes.hub_client import HUB_ERRORS, trouble

    # Without a network `datasets` would try again and again, for half a minute, before it looks into its cache.
    offline = unreachable_reason()
    try:
        table = _table(place, cached=cached or offline is not None)
    except (*HUB_ERRORS, DatasetsError) as error:
        unreachable = "" if offline is None else f", which cannot be reached ({offline})"
        source = "the hub's cache" if cached else f"the hub{unreachable}"
        why = trouble(error)
        reason = first_line(error) if why is None or why.status == _NOT_FOUND else f"{why.reason}. {why.remedy}"
        raise TaskError(
            f"The data set {place} could not be loaded from {source}: {reason}\n"
            "    Check the connection and the name; or name a local copy (`--data TASK=PATH`: a file or folder with "
            "the same columns)\n    or a copy on the hub (`--data TASK=hub:ID@REVISION`). A set loaded once is "
            f"read from {datasets.config.HF_DATASETS_CACHE}, also without a network (HF_HUB_OFFLINE=1)."
        ) from error
    _check_commit(place, table)
    # Pictures that a table names by path are in one of the two caches.
    caches = os.path.commonpath([constants.HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE)])
    yield from table_rows(table, where=str(place), folder=Path(caches))


def is_cached(hub_id: str) -> bool:
    """Return whether data of this set has been loaded before."""
    from huggingface_hub import constants

    fetched = Path(constants.HF_HUB_CACHE) / f"datasets--{hub_id.replace('/', '--')}" / "snapshots"
    if any(fetched.rglob("*.parquet")):
        return True
    owner, _, name = hub_id.rpartition("/")
    cache = loaded_sets()
    if not any(cache.glob(f"{owner}___*" if owner else "*")):
        return False
    # It takes half a second to import, and only its own naming of folders is needed.
    from datasets.naming import camelcase_to_snakecase

    folder = "___".join(filter(None, (owner, camelcase_to_snakecase(name))))
    return any((cache / folder).glob("*/*/*/dataset_info.json"))


def loaded_sets() -> Path:
    """Return the folder in which `datasets` keeps what it has loaded, as its config says, without importing it."""
    from huggingface_hub import constants

    return Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))


def table_rows(table: Any, *, where: str, folder: Path) -> Iterator[Row]:
    """Yield the rows of a `datasets` table; pictures that it names by path must be inside `folder`."""
    pictures = [name for name, feature in table.features.items() if _holds_pictures(feature)]
    counts = {column: _counts(table, column) for column in pictures}
    texts = table.remove_columns(pictures).with_format("arrow")
    batches = (texts[start : start + _BATCH].to_pylist() for start in range(0, len(table), _BATCH))
    for index, cells in enumerate(chain.from_iterable(batches)):
        place = f"{where}, row {index + 1}"
        found = {
            column: _stored(table, index, column, count=counts[column][index], where=place, folder=folder)
            for column in pictures
        }
        yield Row(cells={**cells, **found}, where=place, folder=folder)


def _stored(table: Any, index: int, column: str, *, count: int | None, where: str, folder: Path) -> object:
    def at(position: int | None) -> StoredPicture:
        return StoredPicture(table=table, index=index, column=column, position=position, where=where, folder=folder)

    if not hasattr(table.features[column], "feature"):
        return at(None) if count else None
    return None if count is None else [at(position) for position in range(count)]


def _table(place: HubSplit, *, cached: bool) -> Any:
    import datasets

    from evovlm.recipes.hub_client import with_xet_or_http

    if place.folder is not None:
        files = _parquet_files(place, cached=cached)
        return datasets.load_dataset("parquet", data_files={place.split: files}, split=place.split)
    if cached:
        return _cached_table(place)
    load = partial(datasets.load_dataset, place.id, place.config, split=place.split, revision=place.revision)
    return with_xet_or_http(load)


def _parquet_files(place: HubSplit, *, cached: bool) -> list[str]:
    # `datasets` does not cache what it reads from a folder of a repository; huggingface_hub does.
    from huggingface_hub import snapshot_download

    from evovlm.recipes.hub_client import fetching

    pattern = f"{place.folder}/{place.split}/*.parquet"
    download = partial(
        snapshot_download,
        place.id,
        repo_type="dataset",
        revision=place.revision,
        allow_patterns=pattern,
        local_files_only=cached,
    )
    root = fetching(lambda bar: download(tqdm_class=bar))
    files = sorted(map(str, Path(root).glob(pattern)))
    if not files:
        raise FileNotFoundError(f"there is no {pattern} in it")
    return files


def _cached_table(place: HubSplit) -> Any:
    from datasets.packaged_modules.cache.cache import Cache

    name = place.id.rpartition("/")[2]
    builder = Cache(repo_id=place.id, dataset_name=name, config_name=place.config, version="auto", hash="auto")
    return builder.as_dataset(split=place.split)


def _check_commit(place: HubSplit, table: Any) -> None:
    if place.folder is not None or place.revision is None or not _COMMIT.fullmatch(place.revision):
        return
    commits = {Path(file["filename"]).parent.name for file in table.cache_files}
    if commits and place.revision not in commits:
        raise TaskError(
            f"The data set {place}: the hub cannot be reached, and the cache has {', '.join(sorted(commits))} instead. "
            "Load that commit once with a network connection, or name the cached one."
        )


def _holds_pictures(feature: Any) -> bool:
    import datasets

    return isinstance(getattr(feature, "feature", feature), datasets.Image)


def _counts(table: Any, column: str) -> list[int | None]:
    """Return the number of pictures of each row in a column: a list's length, else 1; None for an empty cell."""
    import pyarrow.compute  # type: ignore[import-untyped]

    cells = table.with_format("arrow").select_columns([column])[:][column]
    if hasattr(table.features[column], "feature"):
        lengths: list[int | None] = pyarrow.compute.list_value_length(cells).to_pylist()
        return lengths
    return [1 if is_there else None for is_there in cells.is_valid().to_pylist()]
