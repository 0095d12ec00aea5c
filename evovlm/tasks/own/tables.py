"""Read files of task data: JSON lines, JSON lists, TSV, CSV, Parquet, and folders of them.

read_files(Path("mgsm_ja.tsv"), columns=("question", "answer_number"))
-> Row(cells={"question": "ジャネットのアヒルは1日に16個...", "answer_number": "18"}, where="mgsm_ja.tsv:1")
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from evovlm.errors import TaskError
from evovlm.files import leads_outside
from evovlm.tasks.hub import table_rows
from evovlm.tasks.row import Row

FileStates: TypeAlias = tuple[tuple[str, int, int, int], ...]


def read_files(path: Path, *, columns: tuple[str, ...] = (), parts: tuple[str, ...] = ()) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .json (a list), .tsv, .csv or .parquet file, or of a folder.

    `columns` names the columns of a table without a header. In a folder with a file or folder for each split, the
    first of `parts` that exists is read. A folder is one saved by `datasets`, an image folder (with a `metadata.jsonl`
    or `metadata.csv`, whose `file_name` becomes `image`), or files, read in the order of their names. Pictures given as
    paths must be in the file's folder. Raises TaskError when nothing is found, or a file cannot be read.
    """
    place = part_of(path, parts)
    refuse_outside(place, path)
    if place.is_dir():
        yield from _read_folder(place, columns)
        return
    if not place.is_file():
        raise TaskError(f"{place}: there is no such file or folder. Give the path of one that holds data.")
    reader = _READERS.get(place.suffix.lower())
    if reader is None:
        raise TaskError(
            f"{place}: '{place.suffix}' files cannot be read. Task data is one of {', '.join(sorted(_READERS))}."
        )
    try:
        yield from reader(place, columns)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{place}: cannot be read ({error}). Give an intact file.") from error


def part_of(path: Path, parts: tuple[str, ...]) -> Path:
    """Return the file or folder in `path` for the first of `parts` that exists, else the path itself."""
    if path.is_dir():
        for part in parts:
            for entry in sorted(path.iterdir()):
                if entry.name == part or (entry.suffix.lower() in _READERS and f".{entry.stem}".endswith(f".{part}")):
                    return entry
    return path


def file_states(path: Path) -> FileStates:
    """Return what tells whether a file, or the tables in a folder and its folders, have changed: empty for neither."""
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = [each for pattern in ("*", "*/*") for each in path.glob(pattern) if each.suffix.lower() in _STORED]
    states = ((str(file), file.stat()) for file in sorted(files))
    return tuple((name, state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states)


def _read_folder(folder: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    if (folder / "dataset_dict.json").is_file():
        raise TaskError(f"{folder}: holds several splits saved by `datasets`. Name the folder of one of them.")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        import datasets

        for file in folder.iterdir():
            refuse_outside(file, folder)
        yield from table_rows(datasets.load_from_disk(str(folder)), where=str(folder), folder=folder)
        return
    for name in ("metadata.jsonl", "metadata.csv"):
        if (folder / name).is_file():
            refuse_outside(folder / name, folder)
            for row in read_files(folder / name):
                yield Row(cells={**row.cells, "image": row.text("file_name")}, where=row.where, folder=folder)
            return
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS)
    if not files:
        raise TaskError(f"{folder}: there is no task data. Put {', '.join(sorted(_READERS))} files there.")
    for path in files:
        refuse_outside(path, folder)
        yield from read_files(path, columns=columns)


def refuse_outside(path: Path, folder: Path) -> None:
    """Raise TaskError for a file of a folder of task data that a link leads out of the folder."""
    if folder.is_dir() and leads_outside(path, folder):
        raise TaskError(
            f"{path}: is a link that leads out of its folder, and is not followed. Put the file itself there."
        )


def _json_lines(path: Path, _columns: tuple[str, ...]) -> Iterator[Row]:
    # str.splitlines would also split at characters such as U+2028, which a JSON text may contain.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _json_row(_parsed(line, where=where), where=where, path=path)


def _json_list(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    text = _text(path)
    if not text.lstrip().startswith("["):
        _refuse_one_object(text, path=path)
        # Some data sets are JSON lines under this name.
        yield from _json_lines(path, columns)
        return
    for number, row in enumerate(_parsed(text, where=str(path)), start=1):
        yield _json_row(row, where=f"{path}, entry {number}", path=path)


def _refuse_one_object(text: str, *, path: Path) -> None:
    """Raise TaskError for a JSON object over several lines: it is not a row, though it may contain the list of rows."""
    if "\n" not in text.strip():
        return
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    raise TaskError(
        f"{path}: is one JSON object ({', '.join(map(str, whole))}), and a list of rows is needed, or a row per line.\n"
        "    Save the list that it holds; `evovlm grade` finds it by --rows-at KEY/KEY."
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _parsed(text: str, *, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(
            f"{where}: is not JSON ({error.msg}, line {error.lineno}, column {error.colno}). Correct it."
        ) from error
    except (RecursionError, ValueError) as error:
        raise TaskError(f"{where}: is JSON that cannot be read ({error}). Correct it.") from error


def _json_row(value: object, *, where: str, path: Path) -> Row:
    if not isinstance(value, dict):
        raise TaskError(
            f"{where}: should be a JSON object with a key per column, and is a {type(value).__name__}. Correct it."
        )
    return Row(cells=value, where=where, folder=path.parent)


def _tab_separated(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    numbered = enumerate(_text(path).split("\n"), start=1)
    # A file written on Windows ends its lines with \r\n.
    yield from _table([(n, line.rstrip("\r").split("\t")) for n, line in numbered if line.strip()], columns, path)


def _comma_separated(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        yield from _table([(reader.line_num, cells) for cells in reader if cells], columns, path)


def _table(lines: list[tuple[int, list[str]]], columns: tuple[str, ...], path: Path) -> Iterator[Row]:
    if not lines:
        return
    first = lines[0][1]
    has_header = not columns or bool(set(columns) & set(first))
    header = tuple(first) if has_header else columns
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TaskError(f"{path}: its header names {', '.join(map(repr, twice))} more than once. Rename the columns.")
    for number, cells in lines[1:] if has_header else lines:
        if len(cells) != len(header):
            raise TaskError(
                f"{path}:{number}: has {len(cells)} columns; {len(header)} are needed ({', '.join(header)})."
            )
        yield Row(cells=dict(zip(header, cells, strict=True)), where=f"{path}:{number}", folder=path.parent)


def _parquet(path: Path, _columns: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(cells=cells, where=f"{path}, row {number}", folder=path.parent)
    except pyarrow.ArrowException as error:
        raise TaskError(f"{path}: is not an intact Parquet file ({error}).") from error


_READERS: Mapping[str, Callable[[Path, tuple[str, ...]], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".tsv": _tab_separated,
    ".csv": _comma_separated,
    ".parquet": _parquet,
}
_STORED = frozenset({*_READERS, ".arrow"})
