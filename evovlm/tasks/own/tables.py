"""Read files of task data: JSON lines, JSON lists, TSV, CSV, Excel's .xlsx, Parquet, and folders of them.

read_files(Path("mgsm_ja.tsv"), columns=("question", "answer_number"))
-> Row(cells={"question": "ジャネットのアヒルは1日に16個...", "answer_number": "18"}, where="mgsm_ja.tsv:1")
"""

import csv
import json
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any, TypeAlias

from evovlm.errors import TaskError, first_line
from evovlm.files import check_foreign, leads_outside, read_foreign
from evovlm.foreign_json import JsonObject, parse_json, read_json
from evovlm.tasks.hub import table_rows
from evovlm.tasks.own.spreadsheets import Decoded, Line, csv_lines, decode, fitted, xlsx_lines
from evovlm.tasks.row import Row

FileStates: TypeAlias = tuple[tuple[str, int, int, int], ...]

_MOST_BYTES = 1_000_000_000
_MOST_ROWS = 10_000_000
_MOST_COLUMNS = 1000
_ROWS_AT_ONCE = 64
_DEEPEST = 100
OTHER_TABLES = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers", ".txt")


def read_files(
    path: Path,
    *,
    columns: tuple[str, ...] = (),
    parts: tuple[str, ...] = (),
    on_bad_row: Callable[[TaskError], None] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a .jsonl, .json (a list), .tsv, .csv, .xlsx or .parquet file, or of a folder.

    `columns` names the columns of a table without a header. In a folder with a file or folder for each split, the
    first of `parts` that exists is read. A folder is one saved by `datasets`, an image folder (with a `metadata.jsonl`
    or `metadata.csv`, whose `file_name` becomes `image`), or files, read in the order of their names. Pictures given as
    paths must be in the file's folder. Raises TaskError when nothing is found, or a file cannot be read: also for pipes
    and devices, for text files above 1 GB, and for cells that are nested too deeply or are not valid Unicode; a row
    with such cells is given to `on_bad_row` instead, where that is given, and left out.
    """
    try:
        place = part_of(path, parts)
        refuse_outside(place, path)
        for row in _read_folder(place, columns) if place.is_dir() else _read_file(place, columns):
            try:
                check_cells(row)
            except TaskError as error:
                if on_bad_row is None:
                    raise
                on_bad_row(error)
                continue
            yield row
    except OSError as error:
        raise TaskError(
            f"{path}: cannot be read ({error.strerror or error}). Check its name and permissions."
        ) from error


def check_cells(row: Row) -> None:
    """Raise TaskError for cells that could not be shown or saved: nested too deeply, or halves of surrogate pairs."""
    level: list[tuple[object, object]] = [(column, value) for column, value in row.cells.items()]
    level.extend((column, column) for column in row.cells)
    depth = 0
    while level:
        depth += 1
        inner: list[tuple[object, object]] = []
        for column, value in level:
            if isinstance(value, str):
                _check_text(value, column=column, where=row.where)
            elif isinstance(value, Mapping):
                inner.extend((column, each) for pair in value.items() for each in pair)
            elif isinstance(value, (list, tuple)):
                inner.extend((column, each) for each in value)
        if inner and depth > _DEEPEST:
            raise TaskError(f"{row.where}: {inner[0][0]!a:.80} is nested more than {_DEEPEST} levels deep. Correct it.")
        level = inner


def _check_text(text: str, *, column: object, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"{where}: {column!a:.80} contains half a character ({text[error.start]!a}), which is not valid Unicode. "
            "Correct it."
        ) from error


def _read_file(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise TaskError(f"{path}: no such file or folder. Give the path of one that holds data.") from error
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TaskError(
            f"{path}: '{path.suffix}' files cannot be read. Task data is one of {', '.join(sorted(_READERS))}."
            f"{' Save it as .xlsx or .csv.' if path.suffix.lower() in OTHER_TABLES else ''}"
        )
    try:
        # Parquet is read in parts, so that its size does not matter.
        check_foreign(state, path, limit_bytes=state.st_size)
        yield from reader(path, columns)
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror or error}). Give an intact file.") from error
    except csv.Error as error:
        raise TaskError(
            f"{path}: cannot be read ({error}). Look for a quote that is not closed, and for very long cells."
        ) from error


def part_of(path: Path, parts: tuple[str, ...]) -> Path:
    """Return the file or folder in `path` for the first of `parts` that exists, else the path itself."""
    if path.is_dir():
        for part in parts:
            for entry in sorted(path.iterdir()):
                if entry.name == part or (entry.suffix.lower() in _READERS and f".{entry.stem}".endswith(f".{part}")):
                    return entry
    return path


def file_states(path: Path) -> FileStates:
    """Return what shows whether a file, or the tables in a folder and its folders, have changed: empty for neither.

    Raises TaskError when the folder cannot be read.
    """
    try:
        files = [path] if path.is_file() else []
        if path.is_dir():
            files = [each for pattern in ("*", "*/*") for each in path.glob(pattern) if each.suffix.lower() in _STORED]
        # A link may lead to a file that does not exist.
        states = ((str(file), file.stat()) for file in sorted(files) if file.exists())
        return tuple((name, state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states)
    except OSError as error:
        raise TaskError(
            f"{path}: cannot be read ({error.strerror or error}). Check its name and permissions."
        ) from error


def _read_folder(folder: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    if (folder / "dataset_dict.json").is_file():
        raise TaskError(f"{folder}: holds several splits saved by `datasets`. Name the folder of one of them.")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        yield from _read_saved(folder)
        return
    for name in ("metadata.jsonl", "metadata.csv"):
        if (folder / name).is_file():
            refuse_outside(folder / name, folder)
            for row in _read_file(folder / name, ()):
                yield Row(cells={**row.cells, "image": row.text("file_name")}, where=row.where, folder=folder)
            return
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS)
    if not files:
        raise TaskError(f"{folder}: no task data was found. Put {', '.join(sorted(_READERS))} files there.")
    for path in files:
        refuse_outside(path, folder)
        yield from _read_file(path, columns)


def _read_saved(folder: Path) -> Iterator[Row]:
    """Yield the rows of a folder saved by `datasets`, which lists its files in state.json."""
    import datasets
    import pyarrow  # type: ignore[import-untyped]
    from datasets.exceptions import DatasetsError

    for file in folder.iterdir():
        refuse_outside(file, folder)
        if not stat.S_ISREG(file.stat().st_mode) and not file.is_dir():
            raise TaskError(f"{file}: is a pipe or a device, not a file. Remove it.")
    # What `datasets` and pyarrow raise for broken files: KeyError and TypeError for missing or wrong entries.
    broken = (DatasetsError, pyarrow.ArrowException, ValueError, LookupError, TypeError, AttributeError, RecursionError)
    try:
        state = JsonObject.of(read_json(folder / "state.json"))
        names = [each.text("filename") for each in state.objects("_data_files")]
        if any(Path(name).name != name for name in names):
            raise ValueError("state.json names files outside of the folder")
        table = datasets.load_from_disk(str(folder))
        if not isinstance(table, datasets.Dataset):
            raise TypeError("it is not one table")
    except broken as error:
        raise TaskError(f"{folder}: is not an intact folder saved by `datasets` ({first_line(error)}).") from error
    try:
        yield from table_rows(table, where=str(folder), folder=folder)
    except (pyarrow.ArrowException, UnicodeDecodeError, OverflowError) as error:
        raise TaskError(f"{folder}: is not an intact folder saved by `datasets` ({first_line(error)}).") from error


def refuse_outside(path: Path, folder: Path) -> None:
    """Raise TaskError for a file of a folder of task data that a link leads out of the folder."""
    if folder.is_dir() and leads_outside(path, folder):
        raise TaskError(
            f"{path}: is a link that leads out of its folder, and is not followed. Put the file itself there."
        )


def _json_lines(path: Path, _columns: tuple[str, ...]) -> Iterator[Row]:
    # str.splitlines would also split at characters such as U+2028, which a JSON text may contain.
    for number, line in enumerate(file_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _json_row(_parsed(line, where=where), where=where, path=path)


def _json_list(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    text = file_text(path)
    if not text.lstrip().startswith("["):
        _refuse_one_object(text, path=path)
        # Some data sets are JSON lines under this name.
        yield from _json_lines(path, columns)
        return
    for number, row in enumerate(_parsed(text, where=str(path)), start=1):
        yield _json_row(row, where=f"{path}, entry {number}", path=path)


def _refuse_one_object(text: str, *, path: Path) -> None:
    """Raise TaskError for a JSON object over several lines: it is not a row, though it may contain the list of rows."""
    try:
        whole = parse_json(text, non_finite=True, as_cells=True)
    except ValueError:
        return
    # On one line it may be a row; a row holds no rows.
    is_row = "\n" not in text.strip() and not any(
        isinstance(value, list) and value and isinstance(value[0], dict)
        for value in (whole.values() if isinstance(whole, dict) else ())
    )
    if is_row or not isinstance(whole, dict):
        return
    raise TaskError(
        f"{path}: is one JSON object ({', '.join(map(str, whole))}), and a list of rows is needed, or a row per line.\n"
        "    Save the list that it holds; `evovlm grade` finds it by --rows-at KEY/KEY."
    )


def file_text(path: Path) -> str:
    """Return the text of a file, in one of the encodings of `decode`. Raises OSError as `read_foreign` does."""
    return _decoded(path).text


def _decoded(path: Path) -> Decoded:
    return decode(read_foreign(path, limit_bytes=_MOST_BYTES), where=str(path))


def _parsed(text: str, *, where: str) -> Any:
    try:
        # pandas writes NaN for empty cells.
        return parse_json(text, non_finite=True, as_cells=True)
    except json.JSONDecodeError as error:
        raise TaskError(
            f"{where}: is not JSON ({error.msg}, line {error.lineno}, column {error.colno}). Correct it."
        ) from error
    except ValueError as error:
        raise TaskError(f"{where}: is JSON that cannot be read ({error}). Correct it.") from error


def _json_row(value: object, *, where: str, path: Path) -> Row:
    if not isinstance(value, dict):
        raise TaskError(
            f"{where}: should be a JSON object with a key per column, and is a {type(value).__name__}. Correct it."
        )
    return Row(cells=value, where=where, folder=path.parent)


def _tab_separated(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    text, encoding = _decoded(path)
    if encoding is not None:
        # Saved by a spreadsheet program, which puts cells with tabs, quotes and line ends in quotes.
        yield from _table(list(csv_lines(text)), columns, path, encoding=encoding)
        return
    numbered = enumerate(text.split("\n"), start=1)
    # A file written on Windows ends its lines with \r\n.
    yield from _table([(n, line.rstrip("\r").split("\t")) for n, line in numbered if line.strip()], columns, path)


def _comma_separated(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    text, encoding = _decoded(path)
    yield from _table(list(csv_lines(text)), columns, path, encoding=encoding)


def _workbook(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    yield from _table(list(xlsx_lines(path, limit_bytes=_MOST_BYTES)), columns, path, pad=True)


def _table(
    lines: list[Line], columns: tuple[str, ...], path: Path, *, pad: bool = False, encoding: str | None = None
) -> Iterator[Row]:
    """Yield the rows of a table; with `pad`, cells that are missing at the end of a row are empty."""
    # People leave empty rows above their tables.
    lines = list(dropwhile(lambda line: not any(cell.strip() for cell in line[1]), lines))
    if not lines:
        return
    first = lines[0][1]
    has_header = not columns or bool(set(columns) & set(first))
    if len(first) > _MOST_COLUMNS:
        raise TaskError(f"{path}: has {len(first):,} columns, and at most {_MOST_COLUMNS:,} are read. Remove some.")
    header = tuple(fitted(first, n_columns=1, pad=False)) if has_header else columns
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise TaskError(f"{path}: its header names {', '.join(map(repr, twice))} more than once. Rename the columns.")
    for number, given in lines[1:] if has_header else lines:
        cells = fitted(given, n_columns=len(header), pad=pad)
        if len(cells) != len(header):
            raise _wrong_width(len(cells), header, where=f"{path}:{number}")
        found = dict(zip(header, cells, strict=True))
        yield Row(cells=found, where=f"{path}:{number}", folder=path.parent, encoding=encoding)


def _wrong_width(n_cells: int, header: tuple[str, ...], *, where: str) -> TaskError:
    cells = "1 cell" if n_cells == 1 else f"{n_cells} cells"
    if len(header) == 1 and n_cells > 1:
        return TaskError(
            f"{where}: has {cells}, and the first row only one ({header[0]:.80}). If that is a title, delete it: the "
            "first row should name the columns."
        )
    columns = "1 column is" if len(header) == 1 else f"{len(header)} columns are"
    return TaskError(
        f"{where}: has {cells}, and {columns} needed ({', '.join(header)}). A cell that contains a separator or a line "
        "end should be in quotes, and each quote closed."
    )


def _parquet(path: Path, _columns: tuple[str, ...]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_rows_at_once(path, file.metadata)):
                for cells in batch.to_pylist():
                    number += 1
                    yield Row(cells=cells, where=f"{path}, row {number}", folder=path.parent)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        # ValueError: two columns of one name, or texts that are not UTF-8; OverflowError: dates after the year 9999.
        raise TaskError(f"{path}: is not an intact Parquet file ({first_line(error)}).") from error


def _rows_at_once(path: Path, stated: Any) -> int:
    """Return how many rows to read at once; raise TaskError where the file states too many, or too large columns.

    A cell, compressed or shared by many rows, is at most as large as its part of the column is without compression.
    """
    if stated.num_rows > _MOST_ROWS:
        raise TaskError(f"{path}: has {stated.num_rows:,} rows, and at most {_MOST_ROWS:,} are read.")
    if stated.num_columns > _MOST_COLUMNS:
        raise TaskError(f"{path}: has {stated.num_columns:,} columns, and at most {_MOST_COLUMNS:,} are read.")
    largest = 1
    for number in range(stated.num_row_groups):
        group = stated.row_group(number)
        for part in map(group.column, range(group.num_columns)):
            largest = max(largest, part.total_uncompressed_size)
            if largest > _MOST_BYTES:
                raise TaskError(
                    f"{path}: a part of its column '{part.path_in_schema}' takes {largest:,} bytes without "
                    f"compression, and at most {_MOST_BYTES:,} are read. Save it with smaller row groups."
                )
    return max(1, min(_ROWS_AT_ONCE, _MOST_BYTES // largest))


_READERS: Mapping[str, Callable[[Path, tuple[str, ...]], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".tsv": _tab_separated,
    ".csv": _comma_separated,
    ".parquet": _parquet,
    ".xlsx": _workbook,
}
_STORED = frozenset({*_READERS, ".arrow"})
