"""Loads a task of the user's own: a task file (task_document.py), a folder or a table."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from evovlm.errors import TaskError
from evovlm.recipes.problems import report_problems
from evovlm.recipes.yaml_text import read_yaml
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.metrics.references import number_of
from evovlm.tasks.overlap import split_samples
from evovlm.tasks.own.folder import ENDINGS, describe_folder, describe_table, describe_tables, only_table
from evovlm.tasks.own.tables import OTHER_TABLES, FileStates, file_states
from evovlm.tasks.own.task_document import ACCURACY, CHOICE, USUAL_DECODING, OwnTask, place_in
from evovlm.tasks.published import Published, hub_place, is_on_hub
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, letter_of
from evovlm.tasks.task import Task

HOW_TO_SPLIT = (
    "to search with a part of one table, give it to `evovlm init --task TABLE`, or name a task file of three lines: "
    "`name: ...`, `data: FOLDER`, `split: {search: 0.5, seed: 0}` (docs/own-models.md)"
)
_MOST_CHOICES = 100
_MOST_NAMED = 10


def is_own_task(name: str) -> bool:
    """Return whether a task's name is the path of a task file, a table or a folder with a slash, not the harness's."""
    return (name.endswith((".yaml", ".yml", *ENDINGS)) or "/" in name) and not is_harness_name(name)


def load_own_task(path: Path, *, taken: Mapping[str, object]) -> Task:
    """Return the task of a YAML file, a folder or a table; its name must not be one of those `taken`.

    An unchanged file or folder is not read again. Raises ConfigError with every problem of the file, TaskError for a
    folder or table whose content is not clear.
    """
    if "\0" in str(path):
        raise TaskError(f"{str(path)!r}: not found, as no path contains a zero character.")
    return _load_task(path, frozenset(taken), file_states(path))


@lru_cache(maxsize=32)
def _load_task(path: Path, taken: frozenset[str], _states: FileStates) -> Task:
    try:
        return _read_task(path, taken)
    except OSError as error:
        # A name that is too long, or a folder that may not be read.
        raise TaskError(f"{path}: its data cannot be read ({error}). Check names and permissions.") from error


def _read_task(path: Path, taken: frozenset[str]) -> Task:
    is_folder = path.is_dir()
    is_table = path.suffix.lower() in ENDINGS
    folder = path if is_folder else path.parent
    if not is_folder and path.suffix.lower() in OTHER_TABLES:
        raise TaskError(f"{path}: '{path.suffix}' files cannot be read. Save the table as .xlsx or .csv.")
    describe = describe_folder if is_folder else describe_table
    document = describe(path, taken=taken) if is_folder or is_table else read_yaml(path)
    is_split = isinstance(document, Mapping) and document.get("split") is not None
    if isinstance(document, Mapping) and is_split:
        document = _described(document, folder)
    try:
        own = OwnTask.model_validate(document, context={"folder": folder, "taken": taken})
    except ValidationError as error:
        raise report_problems(path, error, model=OwnTask) from error
    return _task(own, folder, decided=is_folder or is_table or is_split)


def _task(own: OwnTask, folder: Path, *, decided: bool) -> Task:
    """Return the task; paths of its data are relative to `folder`. With `decided`, its metric was not written."""
    splits = own.parts
    hub_id, revision = hub_place(own.data) if is_on_hub(own.data) else (None, None)
    published = Published(hub_id=hub_id, revision=revision, splits=splits, configs=(own.config,))
    loader = _Loader(own, published, folder / own.data, decided=decided)
    return Task(
        name=own.name,
        description=own.description,
        prompt=own.prompt,
        scoring=own.scoring(folder),
        chat=own.chat,
        decoding=own.decoding.applied(USUAL_DECODING),
        load=loader.load,
        notes=loader.notes,
        needs_images=bool(own.columns.image),
        splits=frozenset(splits),
        hub_id=hub_id,
        is_local=hub_id is None,
        licence=own.licence,
    )


def _described(document: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return the document of a task whose table is split, with table, columns and metric where it does not say them."""
    data = document.get("data", ".")
    if not isinstance(data, str) or is_on_hub(data) or not (folder / data).is_dir():
        # Validation says what is wrong.
        return document
    table = document.get("table")
    name = table if isinstance(table, str) else only_table(folder / data)
    place = place_in(folder / data, name)
    if place == folder / data:
        raise TaskError(f"{folder / data / name}: this table does not exist. Correct `table:`, or leave it out.")
    if {"columns", "metric"} <= document.keys():
        return {**document, "table": name}
    return {"table": name, **describe_tables([place], folder=folder / data), **document}


class _Read(NamedTuple):
    """The samples of a split, and what was decided about the data."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...]


class _Loader:
    """Reads a split's samples; those of files that have not changed since are not read again.

    With `decided`, the metric was chosen from the answers: rows that it cannot compare with are left out.
    """

    def __init__(self, own: OwnTask, published: Published, folder: Path, *, decided: bool) -> None:
        self._own, self._published, self._folder, self._decided = own, published, folder, decided
        self._read = lru_cache(maxsize=4)(self._read_anew)

    def load(self, split: Split, data: Path | None) -> tuple[Sample, ...]:
        """Return the samples of a split."""
        return self._of(split, data).samples

    def notes(self, split: Split, data: Path | None) -> tuple[str, ...]:
        """Return what was decided about the data of a split, and what was left out."""
        return self._of(split, data).notes

    def _of(self, split: Split, data: Path | None) -> _Read:
        usual = None if self._published.hub_id else place_in(self._folder, self._published.splits[split])
        place = usual if data is None else data
        return self._read(split, place, () if place is None else file_states(place))

    def _read_anew(self, split: Split, place: Path | None, _states: FileStates) -> _Read:
        bad: list[TaskError] = []
        rows = list(self._published.rows(split, place, on_bad_row=bad.append))
        while rows and rows[-1].is_blank:
            # Spreadsheets end in rows that were once used.
            rows.pop()
        notes = [f"empty rows are skipped: {_lines([row for row in rows if row.is_blank])}"]
        notes = notes if any(row.is_blank for row in rows) else []
        notes += [f"a row is left out: {error}" for error in bad[:_MOST_NAMED]]
        notes += [f"further rows left out: {len(bad) - _MOST_NAMED}"] if len(bad) > _MOST_NAMED else []
        kept = [row for row in rows if not row.is_blank]
        samples = [(row, self._sample(row, number)) for number, row in enumerate(kept, start=1)]
        found = tuple(sample for _, sample in samples if sample is not None)
        notes += self._decisions(kept, [row for row, sample in samples if sample is None])
        checked = self._published.checked(iter(found), split=split, data=place)
        if self._own.split is not None:
            parts = split_samples(checked, share=self._own.split.search, seed=self._own.split.seed)
            row_of = {sample.id: row for row, sample in samples if sample is not None}
            counts = ", ".join(
                f"{each.value} {len(part)} ({_lines([row_of[sample.id] for sample in part])})"
                for each, part in parts.items()
            )
            notes.append(f"split by shares (seed {self._own.split.seed}) of {len(checked)} samples: {counts}")
            checked = parts[split]
        return _Read(samples=checked, notes=tuple(notes))

    def _sample(self, row: Row, number: int) -> Sample | None:
        """Return the sample of a row; None for one that a metric chosen from the answers cannot compare with."""
        own = self._own
        if self._decided and own.metric == ACCURACY and not _has_numbers(row, own.columns.answer):
            row.check_filled(own.columns.answer, may_be_list=True)
            return None
        return _sample(row, own, number)

    def _decisions(self, rows: Sequence[Row], left_out: Sequence[Row]) -> Iterator[str]:
        if rows and rows[0].encoding is not None:
            yield f"the text is read as {rows[0].encoding}"
        if not self._decided or not rows:
            return
        columns = self._own.columns
        named = {"question": columns.question, "answer": columns.answer, "image": ", ".join(columns.image)}
        renamed = [f"{what} = {column}" for what, column in named.items() if column and column != what]
        if renamed:
            yield f"columns: {', '.join(renamed)}"
        numbers = sum(_has_numbers(row, columns.answer) for row in rows)
        count = f"{numbers} of {len(rows)} answers are numbers"
        if self._own.metric == ACCURACY:
            rest = f"; left out, as they are not: {_lines(left_out)}" if left_out else ""
            yield f"{ACCURACY}: {count}{rest}"
        else:
            yield f"{self._own.metric}: {count}{', and its questions have pictures' if columns.image else ''}"


def _lines(rows: Sequence[Row]) -> str:
    shown = ", ".join(row.line for row in rows[:_MOST_NAMED])
    return f"rows {shown}{', ...' if len(rows) > _MOST_NAMED else ''}" if len(rows) > 1 else f"row {shown}"


def _has_numbers(row: Row, column: str) -> bool:
    value = row.get(column)
    answers = value if isinstance(value, list) else [value]
    return bool(answers) and all(each is not None and number_of(str(each)) is not None for each in answers)


def _sample(row: Row, own: OwnTask, number: int) -> Sample:
    columns = own.columns
    choices = row.texts(columns.choices) if columns.choices is not None else ()
    if len(choices) > _MOST_CHOICES:
        raise TaskError(f"{row.where}: has {len(choices)} choices, and at most {_MOST_CHOICES} are read.")
    row.check_filled(columns.question)
    if own.clip_model is None:
        row.check_filled(columns.answer, may_be_list=True)
    return Sample(
        id=row.text(columns.id) if columns.id is not None else f"{number:04d}",
        question=row.text(columns.question),
        references=tuple(_references(row, own, choices)),
        images=row.pictures(columns.image),
        choices=choices,
        tags=frozenset(tag for column in columns.tags for tag in _tags(row, column)),
    )


def _references(row: Row, own: OwnTask, choices: Sequence[str]) -> Iterator[str]:
    column = own.columns.answer
    answers = row.texts(column) if isinstance(row.value(column), list) else (row.text(column),)
    for answer in answers:
        if own.metric == CHOICE:
            yield _letter(answer, row, column, choices)
        elif own.metric == ACCURACY:
            yield number_of(answer) or row.as_number(answer, column)
        else:
            yield answer


def _letter(answer: str, row: Row, column: str, choices: Sequence[str]) -> str:
    """Return the letter of a choice given by its letter, its index from 0, or its text."""
    letters = [letter_of(index) for index in range(len(choices))]
    for names in (letters, choices, [str(index) for index in range(len(choices))]):
        if answer.strip() in names:
            return letters[list(names).index(answer.strip())]
    raise TaskError(
        f"{row.where}: '{column}' should be a letter ({letters[0]} to {letters[-1]}), an index from 0, or one of the "
        f"choices ({', '.join(choices)}), and is {answer!r}. Correct it."
    )


def _tags(row: Row, column: str) -> tuple[str, ...]:
    value = row.get(column)
    if value is None:
        return ()
    return row.texts(column) if isinstance(value, list) and value else (str(value),)
