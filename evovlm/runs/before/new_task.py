"""Splits a user's only table for a search, by writing the task file that says how.

name: sums
data: ./data
table: sums.xlsx
split: {search: 0.5, seed: 0}    # the share of its rows that a search may see; the others are reported
"""

from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import ConfigError, EvovlmError, OutputExists
from evovlm.files import explained, new_file
from evovlm.recipes.yaml_text import scalar_text
from evovlm.runs.config.new import path_from
from evovlm.tasks.catalogue import TASKS, get_task
from evovlm.tasks.overlap import split_samples
from evovlm.tasks.own.folder import ENDINGS, is_named_for_a_split, name_of, tables_in
from evovlm.tasks.own.task_file import is_own_task
from evovlm.tasks.task import Split
from evovlm.texts.languages import Say

SHARE = 0.5
"""The share of a table that a search may see, unless the user says another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTable:
    """The task file of a table, and what it does with the rows; `is_new` unless the file was there already."""

    file: Path
    notes: tuple[str, ...]
    is_new: bool


def table_to_split(name: str) -> Path | None:
    """Return the table of a task that is nothing else, or a folder with that table alone; None for any other task.

    A folder whose table is called report or test has been split by its user. Raises TaskError or ConfigError for a task
    that does not exist.
    """
    place = Path(name)
    if not is_own_task(name) or Split.SEARCH in get_task(name).splits:
        return None
    if not place.is_dir():
        return place if place.suffix.lower() in ENDINGS else None
    tables = tables_in(place)
    return tables[0] if len(tables) == 1 and not is_named_for_a_split(tables[0]) else None


def split_file(table: Path) -> Path:
    """Return the task file that splits a table, where it lies beside the table."""
    return table.with_name(f"{table.stem}-split.yaml")


def check_splittable(name: str) -> None:
    """Raise TaskError when the table of a task cannot be read, or has too few rows to be split."""
    split_samples(get_task(name).samples(Split.REPORT), share=SHARE, seed=0)


def split_table(table: Path, *, share: float, folder: Path, say: Say) -> SplitTable:
    """Write a task file to `folder` that splits the table, and return it; the same file that is there already is kept.

    Raises OutputExists for another file of its name, OutputError when it cannot be written, TaskError or ConfigError
    when the table cannot be read or split; nothing is written then.
    """
    file = folder / split_file(table).name
    lines = (
        f"name: {scalar_text(name_of(table.stem, TASKS))}",
        f"data: {scalar_text(path_from(folder, table.parent))}",
        f"table: {scalar_text(table.name)}",
        f"split: {{search: {share:g}, seed: 0}}    # {say('config_split')}",
    )
    text = "\n".join(lines) + "\n"
    if file.is_file() and not file.is_symlink() and _content(file) == text.encode():
        return SplitTable(file=file, notes=get_task(str(file)).notes(Split.SEARCH, None), is_new=False)
    try:
        with new_file(file) as beside:
            notes = _notes(beside, text, as_file=file)
    except OutputExists as error:
        raise OutputExists(
            f"{file} exists already, and splits {table.name} in another way or is something else.\n"
            "    Name it as the task, or remove it."
        ) from error
    return SplitTable(file=file, notes=notes, is_new=True)


def _notes(beside: Path, text: str, *, as_file: Path) -> tuple[str, ...]:
    """Write the text of a task file to `beside`, and return what is decided about its data."""
    with explained(as_file):
        beside.write_text(text, encoding="utf-8")
    try:
        return get_task(str(beside.absolute())).notes(Split.SEARCH, None)
    except EvovlmError as error:
        raise ConfigError(str(error).replace(str(beside), str(as_file))) from error


def _content(file: Path) -> bytes:
    with explained(file):
        return file.read_bytes()
