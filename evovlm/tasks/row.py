"""One row of a data set, with its location for error messages."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evovlm.errors import TaskError
from evovlm.foreign_json import parse_json
from evovlm.tasks.metrics.numerals import ungrouped
from evovlm.tasks.pictures import picture_from_cell
from evovlm.tasks.sample import ImageSource, letter_of

_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row's `cells` by column; `where` is its file and line, or the data set and the row's number.

    Pictures given by their paths must be inside `folder`. `encoding` is that of its file, where it is not UTF-8.
    """

    cells: Mapping[str, Any]
    where: str
    folder: Path | None = None
    encoding: str | None = None

    @property
    def is_blank(self) -> bool:
        """Whether every cell is empty."""
        return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in self.cells.values())

    @property
    def line(self) -> str:
        """The number of the row or line in its file."""
        return re.sub(r".*?(\d*)$", r"\1", self.where)

    def get(self, column: str) -> Any:
        """Return the value in a column, None when the column is missing or empty."""
        return self.cells.get(column)

    def value(self, column: str) -> Any:
        """Return the value in a column. Raises TaskError, naming the columns found, when it is missing or empty."""
        value = self.cells.get(column)
        if value is None:
            found = ", ".join(map(str, self.cells)) or "nothing"
            state = "is empty" if column in self.cells else "is missing"
            raise TaskError(f"{self.where}: there is no '{column}' (it {state}); found {found}. Correct the data.")
        return value

    def text(self, column: str) -> str:
        """Return the value in a column as text. Raises TaskError when it is missing or empty."""
        return str(self.value(column))

    def check_filled(self, column: str, *, may_be_list: bool = False) -> None:
        """Raise TaskError for a cell that is missing, empty, or not a text, a number or (if it may be) a list of them.

        The message names the row.
        """
        value = self.value(column)
        for each in value if may_be_list and isinstance(value, list) and value else [value]:
            is_blank = isinstance(each, str) and not each.strip()
            # pandas writes NaN for an empty cell.
            if each is None or each == [] or is_blank or (isinstance(each, float) and math.isnan(each)):
                raise TaskError(f"{self.where}: '{column}' is empty. Fill it in, or delete the row.")
            if isinstance(each, (dict, list)) or each in (math.inf, -math.inf):
                needed = "a text, a finite number or a list of them" if may_be_list else "a text"
                raise TaskError(f"{self.where}: '{column}' should be {needed}, and is {value!r:.80}. Correct it.")

    def number(self, column: str) -> str:
        """Return the number in a column as text without commas. Raises TaskError for a cell without a number."""
        return self.as_number(self.text(column), column)

    def as_number(self, text: str, column: str) -> str:
        """Return the number in a column's text, without commas. Raises TaskError when it is not a number."""
        number = ungrouped(text.strip())
        try:
            if not math.isfinite(float(number)):
                raise ValueError
        except ValueError as problem:
            raise TaskError(
                f"{self.where}: '{column}' should be a number, and is {text!r:.80}. Correct it."
            ) from problem
        return number

    def texts(self, column: str) -> tuple[str, ...]:
        """Return the list in a column as texts; in a table it is JSON. Raises TaskError for a cell without a list."""
        value = listed(self.value(column))
        if not isinstance(value, (list, tuple)) or not value:
            raise TaskError(
                f"{self.where}: '{column}' should be a list, and is {value!r:.80}. In a table, write it as JSON: "
                '["A", "B"].'
            )
        return tuple(map(str, value))

    def mappings(self, column: str) -> tuple[Mapping[str, Any], ...]:
        """Return the list of structures in a column. Raises TaskError for a cell without such a list."""
        value = self.value(column)
        if isinstance(value, dict) and all(isinstance(each, list) for each in value.values()):
            # `datasets` before version 4 gave a list of structures as a structure of lists.
            value = [dict(zip(value, each, strict=False)) for each in zip(*value.values(), strict=False)]
        if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
            raise TaskError(f"{self.where}: '{column}' should be a list of structures, and is {value!r:.80}.")
        return tuple(value)

    def letter(self, column: str, *, n_choices: int) -> str:
        """Return the letter of the choice whose index, from 0, is in a column. Raises TaskError for a wrong index."""
        text = self.text(column)
        if not text.isdecimal() or len(text) > _MOST_DIGITS or not int(text) < n_choices:
            raise TaskError(
                f"{self.where}: '{column}' should be the index of one of {n_choices} choices, from 0, and is "
                f"{text:.80}."
            )
        return letter_of(int(text))

    def picture(self, column: str) -> ImageSource:
        """Return the picture in a column. Raises TaskError for a cell without a picture."""
        return picture_from_cell(self.value(column), folder=self.folder, where=f"{self.where}, {column}")

    def pictures(self, columns: Iterable[str]) -> tuple[ImageSource, ...]:
        """Return the pictures in the columns, skipping empty ones; a cell may hold a list of pictures."""
        cells = [(column, self.get(column)) for column in columns]
        return tuple(
            picture_from_cell(each, folder=self.folder, where=f"{self.where}, {column}")
            for column, cell in cells
            if cell is not None
            for each in (cell if isinstance(cell, (list, tuple)) else (cell,))
        )


def listed(cell: Any) -> Any:
    """Return the list that a table's cell holds as JSON; any other cell unchanged."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return cell
    try:
        return parse_json(cell)
    except ValueError:
        return cell
