"""Rows of a data set, from a local file or folder or from the hub: mappings from column names to values.

read_rows(Path("mgsm_ja.tsv"), columns=("question", "answer_number"))
-> {"question": "ジャネットのアヒルは1日に16個の卵を生みます。...", "answer_number": "18"}
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evovlm.assets import asset_path
from evovlm.errors import TaskError

Row = Mapping[str, Any]


def read_rows(path: Path, *, columns: tuple[str, ...] = (), parts: tuple[str, ...] = ()) -> list[Row]:
    """Return the rows of a .jsonl, .json (a list), .tsv, .csv or .parquet file, or of a folder.

    `columns` names the columns of a table without a header. Of a folder that holds a file or folder for each split,
    the first of `parts` that it has is read. A folder is what `datasets` saves to disk, an image folder (with a
    `metadata.jsonl` or `metadata.csv`, whose `file_name` becomes `image`), or files, read in the order of their names.
    A picture given as a path is found from the file's own folder. Raises TaskError when nothing is there, or a file
    cannot be read.
    """
    place = _part_of(path, parts)
    if place.is_dir():
        return _read_folder(place, columns)
    if not place.is_file():
        raise TaskError(f"{place}: there is no such file or folder of task data. Give the path of one.")
    reader = _READERS.get(place.suffix.lower())
    if reader is None:
        raise TaskError(
            f"{place}: '{place.suffix}' files cannot be read. Task data is one of {', '.join(sorted(_READERS))}."
        )
    try:
        rows = list(reader(place, columns))
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{place}: cannot be read ({error}). Give an intact file.") from error
    return [{**row, "image": place.parent / row["image"]} if isinstance(row.get("image"), str) else row for row in rows]


def hub_rows(hub_id: str, *, split: str, files: str | None = None) -> list[Row]:
    """Return the rows of a data set of the hub; pictures stay encoded. Raises TaskError when it cannot be had.

    `files` (`@revision/pattern`) names Parquet files of the repository to read instead of what it declares.
    """
    import datasets

    try:
        if files is None:
            table = datasets.load_dataset(hub_id, split=split)
        else:
            table = datasets.load_dataset("parquet", data_files={split: f"hf://datasets/{hub_id}{files}"}, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TaskError(
            f"The data set {hub_id} (split {split}) could not be had from the hub: {first_line}\n"
            "    Check the connection, or name a local copy: `--data TASK=PATH`."
        ) from error
    return _table_rows(table)


def _table_rows(table: Any) -> list[Row]:
    import datasets

    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return list(table)


def embedded_file(name: str) -> Path:
    """Return the embedded task file of that name. Raises TaskError when it has not been built."""
    path = asset_path(f"zoo/tasks/{name}.jsonl")
    if not path.is_file():
        raise TaskError(f"{path}: the embedded task data is not there. `make zoo` builds it; the wheel brings it.")
    return path


def value_of(row: Row, column: str, *, where: str) -> Any:
    """Return the row's value in `column`. Raises TaskError, naming `where`, when there is none."""
    value = row.get(column)
    if value is None:
        raise TaskError(f"{where}: there is no '{column}'; found {', '.join(map(str, row)) or 'nothing'}.")
    return value


def _part_of(path: Path, parts: tuple[str, ...]) -> Path:
    if path.is_dir():
        for part in parts:
            for entry in sorted(path.iterdir()):
                if entry.name == part or (entry.suffix.lower() in _READERS and f".{entry.stem}".endswith(f".{part}")):
                    return entry
    return path


def _read_folder(folder: Path, columns: tuple[str, ...]) -> list[Row]:
    if (folder / "dataset_dict.json").is_file():
        raise TaskError(f"{folder}: holds several splits saved by `datasets`. Name the folder of one of them.")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        import datasets

        return _table_rows(datasets.load_from_disk(str(folder)))
    for name in ("metadata.jsonl", "metadata.csv"):
        if (folder / name).is_file():
            return [_with_picture(row, folder) for row in read_rows(folder / name)]
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS)
    if not files:
        raise TaskError(f"{folder}: there is no task data. Put {', '.join(sorted(_READERS))} files there.")
    return [row for path in files for row in read_rows(path, columns=columns)]


def _with_picture(row: Row, folder: Path) -> Row:
    name = value_of(row, "file_name", where=f"{folder}/metadata")
    return {**row, "image": folder / str(name)}


def _json_lines(path: Path, _columns: tuple[str, ...]) -> Iterator[Row]:
    # str.splitlines would also cut at U+2028 and the like, which a JSON text may hold.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            yield _as_row(_parsed(line, where=f"{path}:{number}"), where=f"{path}:{number}")


def _json_list(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8")
    if not text.lstrip().startswith("["):
        # Some publish JSON lines under this name.
        yield from _json_lines(path, columns)
        return
    for number, row in enumerate(_parsed(text, where=str(path)), start=1):
        yield _as_row(row, where=f"{path}, entry {number}")


def _parsed(text: str, *, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}: is not JSON ({error.msg}, column {error.colno}).") from error


def _as_row(value: object, *, where: str) -> Row:
    if not isinstance(value, dict):
        raise TaskError(f"{where}: should be a JSON object with a key per column.")
    return value


def _tab_separated(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    lines = path.read_text(encoding="utf-8").split("\n")
    yield from _table([line.split("\t") for line in lines if line.strip()], columns, path)


def _comma_separated(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from _table([cells for cells in csv.reader(file) if cells], columns, path)


def _table(lines: Sequence[Sequence[str]], columns: tuple[str, ...], path: Path) -> Iterator[Row]:
    if not lines:
        return
    has_header = not columns or bool(set(columns) & set(lines[0]))
    header = tuple(lines[0]) if has_header else columns
    for number, cells in enumerate(lines[1:] if has_header else lines, start=1):
        if len(cells) != len(header):
            raise TaskError(
                f"{path}, row {number}: has {len(cells)} columns; {len(header)} are needed ({', '.join(header)})."
            )
        yield dict(zip(header, cells, strict=True))


def _parquet(path: Path, _columns: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        yield from pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise TaskError(f"{path}: is not a Parquet file ({error}).") from error


_READERS: Mapping[str, Callable[[Path, tuple[str, ...]], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".tsv": _tab_separated,
    ".csv": _comma_separated,
    ".parquet": _parquet,
}
