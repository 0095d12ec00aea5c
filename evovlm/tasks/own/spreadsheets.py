"""Reads tables as spreadsheet programs save them: CSV in several encodings and with several separators, and .xlsx."""

import codecs
import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, NamedTuple

from evovlm.errors import FOREIGN_ERRORS, TaskError, first_line

Line = tuple[int, list[str]]
"""The number of a line or row in its file, and its cells."""

# A mark of UTF-32 begins as one of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_JIS = b"\x1b$"
_SEPARATORS = (",", ";", "\t", "|")
_EXCELS_HINT = re.compile(r"sep=(.)\r?\n")
_JAPANESE = re.compile("[ぁ-んァ-ヶ一-龠]")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_MOST_ROWS = 1_048_576
"""As many rows as a sheet of Excel can have."""
_MOST_CELLS = 10_000_000
_SHOWN_SHEETS = 3


class Decoded(NamedTuple):
    """A text, and the name of its encoding where that is not UTF-8."""

    text: str
    encoding: str | None


def decode(content: bytes, *, where: str) -> Decoded:
    """Return the text in UTF-8, UTF-16, UTF-32 with its mark, ISO-2022-JP, or Shift JIS as Windows writes it (cp932).

    Raises TaskError, naming `where`, for other bytes and for zero characters.
    """
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if marked is not None:
        try:
            return Decoded(content.decode(marked), marked)
        except UnicodeDecodeError as error:
            raise TaskError(f"{where}: begins as {marked}, but is not ({error.reason}). Save it as UTF-8.") from error
    if b"\0" in content:
        return _with_zero_bytes(content, where=where)
    if _JIS in content:
        with suppress(UnicodeDecodeError):
            return Decoded(content.decode("iso2022_jp"), "ISO-2022-JP")
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


def _with_zero_bytes(content: bytes, *, where: str) -> Decoded:
    """Return a text in UTF-16 without its mark: of line ends and separators, every second byte is zero."""
    encoding = "utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be"
    with suppress(UnicodeDecodeError):
        text = content.decode(encoding)
        if "\n" in text and "\0" not in text:
            return Decoded(text, "UTF-16")
    line = content.count(10, 0, content.index(0)) + 1
    raise TaskError(f"{where}:{line}: contains a zero byte, which no text has. Save the file as UTF-8.")


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
            n_cells, n_filled = 0, 0
            for number, cells in enumerate(sheet.iter_rows(), start=1):
                n_cells += len(cells)
                if number > _MOST_ROWS or n_cells > _MOST_CELLS:
                    raise TaskError(
                        f"{path}: has more than {_MOST_ROWS:,} rows or {_MOST_CELLS:,} cells, empty ones too. "
                        "Save it as CSV."
                    )
                texts = _without_end([_text(cell, where=f"{path}:{number}") for cell in cells])
                n_filled += bool(texts)
                yield number, texts
            if n_filled == 0 and len(book.sheetnames) > 1:
                raise TaskError(
                    f"{path}: its first sheet ({sheet.title}) is empty, and only the first is read. Move the sheet of "
                    f"the questions ({', '.join(book.sheetnames[1:][:_SHOWN_SHEETS])}) before it."
                )
        finally:
            book.close()
    except (zipfile.BadZipFile, *FOREIGN_ERRORS) as error:
        raise TaskError(f"{path}: is not an intact .xlsx file ({first_line(error)}). Save it again.") from error


def _text(cell: Any, *, where: str) -> str:
    """Return what a cell of a sheet shows. Raises TaskError, naming `where`, for the error of a formula (#DIV/0!)."""
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        raise TaskError(f"{where}: a cell holds the error {value}. Correct its formula, or delete the row.")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and "%" in cell.number_format:
        # The sheet stores 50 % as 0.5.
        return f"{100 * value:.15g}%"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    return str(value)


def _without_end(cells: list[str]) -> list[str]:
    last = max((place for place, cell in enumerate(cells, start=1) if cell.strip()), default=0)
    return cells[:last]


def fitted(cells: Sequence[str], *, n_columns: int, pad: bool) -> list[str]:
    """Return a row's cells without empty ones beyond the columns, with `pad` as many as there are columns."""
    kept = list(cells)
    while len(kept) > n_columns and not kept[-1].strip():
        kept.pop()
    return kept + [""] * (n_columns - len(kept)) if pad else kept
