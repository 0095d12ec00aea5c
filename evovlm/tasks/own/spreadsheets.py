"""Reads tables as spreadsheet programs save them: CSV in several encodings and with several separators, and .xlsx."""

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import NamedTuple

from evovlm.errors import FOREIGN_ERRORS, TaskError, first_line

Line = tuple[int, list[str]]
"""The number of a line or row in its file, and its cells."""

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = (",", ";", "\t")
_EXCELS_HINT = re.compile(r"sep=(.)\r?\n")
_JAPANESE = re.compile("[ぁ-んァ-ヶ一-龠]")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_MOST_ROWS = 1_048_576
"""As many rows as a sheet of Excel can have."""
_MOST_CELLS = 10_000_000


class Decoded(NamedTuple):
    """A text, and the name of its encoding where that is not UTF-8."""

    text: str
    encoding: str | None


def decode(content: bytes, *, where: str) -> Decoded:
    """Return the text in UTF-8, UTF-16 with its mark, or Shift JIS as Windows writes it (cp932).

    Raises TaskError, naming `where`, for other bytes.
    """
    if content.startswith(_UTF16):
        try:
            return Decoded(content.decode("utf-16"), "UTF-16")
        except UnicodeDecodeError as error:
            raise TaskError(f"{where}: begins as UTF-16, but is not ({error.reason}). Save it as UTF-8.") from error
    try:
        return Decoded(content.decode("utf-8-sig"), None)
    except UnicodeDecodeError as error:
        wrong = error
    try:
        text = content.decode("cp932")
    except UnicodeDecodeError:
        text = ""
    if _JAPANESE.search(text) and not _PRIVATE.search(text):
        return Decoded(text, "Shift JIS (cp932)")
    raise TaskError(
        f"{where}: cannot be read as text: it is neither UTF-8 (byte 0x{content[wrong.start]:02x} in line "
        f"{content.count(10, 0, wrong.start) + 1}), UTF-16 nor Shift JIS.\n    Save it as UTF-8 (in Excel: CSV UTF-8)."
    ) from wrong


def csv_lines(text: str) -> Iterator[Line]:
    """Yield the lines of a CSV text, whose separator is the one that its first line has most of."""
    hint = _EXCELS_HINT.match(text)
    skipped = 1 if hint else 0
    text = text[hint.end() :] if hint else text
    separator = hint[1] if hint else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    yield from ((reader.line_num + skipped, cells) for cells in reader if cells)


def _separator(text: str) -> str:
    def cells(separator: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), ()))

    # The first of equals: a comma, unless another separates more.
    return max(_SEPARATORS, key=cells)


def xlsx_lines(path: Path, *, limit_bytes: int) -> Iterator[Line]:
    """Yield the rows of the first sheet of an .xlsx file, with texts as cells; formulas have their last values.

    Raises TaskError for a file that is not intact, or has more than `limit_bytes` without compression.
    """
    from openpyxl import load_workbook

    try:
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > limit_bytes:
                raise TaskError(f"{path}: has more than {limit_bytes:,} bytes without compression. Save it as CSV.")
        book = load_workbook(path, read_only=True, data_only=True, keep_links=False)
        try:
            sheet = book.worksheets[0]
            # What the file says about its size may be wrong.
            sheet.reset_dimensions()
            n_cells = 0
            for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
                n_cells += len(cells)
                if number > _MOST_ROWS or n_cells > _MOST_CELLS:
                    raise TaskError(
                        f"{path}: has more than {_MOST_ROWS:,} rows or {_MOST_CELLS:,} cells, empty ones too. "
                        "Save it as CSV."
                    )
                yield number, _without_end([_text(cell) for cell in cells])
        finally:
            book.close()
    except (zipfile.BadZipFile, *FOREIGN_ERRORS) as error:
        raise TaskError(f"{path}: is not an intact .xlsx file ({first_line(error)}). Save it again.") from error


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, (date, datetime, time)):
        return cell.isoformat()
    return str(cell)


def _without_end(cells: list[str]) -> list[str]:
    last = max((place for place, cell in enumerate(cells, start=1) if cell.strip()), default=0)
    return cells[:last]


def fitted(cells: Sequence[str], *, n_columns: int, pad: bool) -> list[str]:
    """Return a row's cells without empty ones beyond the columns, with `pad` as many as there are columns."""
    kept = list(cells)
    while len(kept) > n_columns and not kept[-1].strip():
        kept.pop()
    return kept + [""] * (n_columns - len(kept)) if pad else kept
