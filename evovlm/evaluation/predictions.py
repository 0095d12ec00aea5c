"""Predictions as rows, one for each answer: those that `evovlm score --save` writes, and files from other programs.

{"task": "word_problems_ja", "id": "p0", "question": "...", "references": ["2"], "tags": [], "choices": [],
 "text": "...", "extracted": "2", "gate": "script", "score": 1.0, "ungated": 1.0, "japanese": true, "unscored": null,
 "sent": {"prompt": "...", "tokens": 23, "cut": false}}
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evovlm.errors import RunMismatch, TaskError
from evovlm.evaluation.answers import ScoredTask
from evovlm.foreign_json import JsonObject, parse_json
from evovlm.recipes.problems import did_you_mean
from evovlm.tasks.metrics.scoring import Answer, Sent
from evovlm.tasks.own.tables import check_cells, file_text, read_files
from evovlm.tasks.pictures import PictureFile, picture_path
from evovlm.tasks.row import Row, listed
from evovlm.tasks.sample import Sample, check_samples


def prediction_lines(scored: ScoredTask) -> str:
    """Return one line of JSON for each answer, in the task's order."""
    return "".join(json.dumps(_row(scored, answer), ensure_ascii=False) + "\n" for answer in scored.answers)


def parse_answers(text: str, *, where: str) -> tuple[Answer, ...]:
    """Return the answers that `prediction_lines` wrote. Raises RunMismatch, naming `where`, for anything else."""
    answers = []
    # str.splitlines would also cut at characters that an answer may contain.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            answers.append(_answer(JsonObject.of(parse_json(line))))
        except ValueError as error:
            raise RunMismatch(
                f"{where}:{number}: is not a prediction ({error}).\n    The file was changed; score into a new folder."
            ) from error
    return tuple(answers)


def _row(scored: ScoredTask, answer: Answer) -> Mapping[str, object]:
    sample = answer.sample
    return {
        **({"task": scored.name} if scored.name else {}),
        "id": sample.id,
        "question": sample.question,
        **({"wording": sample.wording} if sample.wording is not None else {}),
        **({"context": sample.context} if sample.context else {}),
        "references": list(sample.references),
        "tags": sorted(sample.tags),
        "choices": list(sample.choices),
        "text": answer.text,
        "extracted": answer.extracted,
        "gate": scored.gate,
        "score": answer.score,
        "ungated": answer.ungated,
        "japanese": answer.japanese,
        "unscored": answer.unscored,
        **({"repeat": answer.repeat} if answer.repeat else {}),
        **({"sent": asdict(answer.sent)} if answer.sent is not None else {}),
    }


def _answer(row: JsonObject) -> Answer:
    return Answer(
        sample=Sample(
            id=row.text("id"),
            question=row.text("question"),
            references=row.texts("references"),
            tags=frozenset(row.texts("tags")),
            choices=row.texts("choices"),
        ),
        text=row.text("text"),
        score=row.number("score", low=0, high=1),
        ungated=row.number("ungated", low=0, high=1),
        japanese=row.flag("japanese"),
        extracted=row.optional_text("extracted"),
        unscored=row.optional_text("unscored"),
        repeat=row.count("repeat") if "repeat" in row.values else 0,
        sent=_sent(row.inside("sent")) if "sent" in row.values else None,
    )


def _sent(row: JsonObject) -> Sent:
    return Sent(prompt=row.text("prompt"), tokens=row.count("tokens"), cut=row.flag("cut"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The column of each part of a prediction; None takes the first usual name that the file has."""

    prediction: str | None = None
    reference: str | None = None
    id: str | None = None
    image: str | None = None
    choices: str | None = None


_USUAL: Mapping[str, tuple[str, ...]] = {
    "prediction": ("text", "prediction", "completion", "response", "output", "回答", "予測", "出力"),
    "reference": ("references", "reference", "answer", "target", "gold", "label", "模範解答", "正解", "正答"),
    "id": ("id", "question_id", "sample_id"),
    "image": ("image",),
    "choices": ("choices", "options"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One saved answer: its location, the task that it names (None if it does not), its sample and its text.

    `repeat` counts the answers to the same sample, from 0.
    """

    where: str
    task: str | None
    sample: Sample
    text: str
    repeat: int = 0


def read_predictions(
    path: Path, *, columns: Columns | None = None, rows_at: str | None = None, needs_references: bool = True
) -> tuple[Prediction, ...]:
    """Return the predictions of a .jsonl, .json, .csv, .tsv or .parquet file, in its order.

    `rows_at` is the path to the list of rows inside a JSON object: `results/mgsm/details`. Rows without ids are
    numbered from 1. Of the sample files of lm-evaluation-harness, the model's text is read, once for all filters.
    Raises TaskError, with file and line, for a file that cannot be read, a missing column, an id that is used twice in
    a task, or no rows.
    """
    rows = list(_rows_inside(path, rows_at) if rows_at else read_files(path))
    if rows and rows[0].cells.keys() >= _HARNESS_KEYS:
        rows = list(_of_harness(rows))
    if not rows:
        raise TaskError(f"{path}: no rows were found. Give a file of predictions, one in each row.")
    found = _find_columns(rows, columns or Columns(), path=path, needs_references=needs_references)
    predictions = tuple(
        _prediction(row, found, number=number, folder=path.parent) for number, row in enumerate(rows, start=1)
    )
    return tuple(
        each
        for task in dict.fromkeys(each.task for each in predictions)
        for each in _of_task([each for each in predictions if each.task == task], where=str(path))
    )


def _of_task(predictions: Sequence[Prediction], *, where: str) -> list[Prediction]:
    """Return the predictions of a task, the answers to one sample in a row.

    Raises TaskError for a sample that occurs twice, or has other repeats than the first one.
    """
    by_repeat: dict[int, list[Prediction]] = {}
    for each in predictions:
        by_repeat.setdefault(each.repeat, []).append(each)
    for rows in by_repeat.values():
        check_samples(tuple(each.sample for each in rows), where=where)
    order = {each.sample.id: place for place, each in enumerate(by_repeat[min(by_repeat)])}
    if sorted(by_repeat) != list(range(len(by_repeat))) or any(
        {each.sample.id for each in rows} != order.keys() for rows in by_repeat.values()
    ):
        raise TaskError(
            f"{where}: samples have different numbers of answers (`repeat`). Give all answers to each sample."
        )
    return sorted(predictions, key=lambda each: (order[each.sample.id], each.repeat))


# What a line of the harness's samples_*.jsonl holds, whatever its task.
_HARNESS_KEYS = {"doc_id", "doc", "target", "resps"}


def _of_harness(rows: Sequence[Row]) -> Iterator[Row]:
    """Return the answers in the harness's rows, in the usual columns; a row for each filter repeats the same answers.

    Raises TaskError for likelihoods, which are not texts.
    """
    seen = set()
    for row in rows:
        document, name = row.cells.get("doc"), str(row.cells.get("doc_id"))
        if name in seen:
            continue
        seen.add(name)
        groups = row.cells.get("resps")
        texts = (
            [text for group in groups for text in (group if isinstance(group, list) else [group])]
            if (isinstance(groups, list))
            else [groups]
        )
        if not texts or not all(isinstance(text, str) for text in texts):
            raise TaskError(
                f"{row.where}: 'resps' holds {groups!r:.60}, which are not texts. Grade the samples of a task that "
                "generates text; one that compares likelihoods is scored by the harness only."
            )
        question = document.get("question") if isinstance(document, dict) else None
        for number, text in enumerate(texts, start=1):
            cells = {
                "id": name if len(texts) == 1 else f"{name}-{number}",
                "question": question if isinstance(question, str) else "",
                "prediction": text,
                "reference": row.cells.get("target"),
            }
            yield replace(row, cells=cells)


def _rows_inside(path: Path, rows_at: str) -> Iterator[Row]:
    try:
        place = parse_json(file_text(path))
    except (OSError, ValueError) as error:
        raise TaskError(f"{path}: cannot be read as JSON ({error}). Give an intact file.") from error
    for key in rows_at.split("/"):
        if not isinstance(place, dict) or key not in place:
            keys = ", ".join(map(str, place)) if isinstance(place, dict) else f"a {type(place).__name__}"
            raise TaskError(f"{path}: --rows-at {rows_at}: '{key}' was not found in: {keys}.")
        place = place[key]
    if not isinstance(place, list) or not all(isinstance(row, dict) for row in place):
        found = (
            f"an object of: {', '.join(map(str, place))}" if isinstance(place, dict) else f"a {type(place).__name__}"
        )
        raise TaskError(
            f"{path}: --rows-at {rows_at} should lead to a list of JSON objects, one for each row; found {found}."
        )
    for number, cells in enumerate(place, start=1):
        row = Row(cells=cells, where=f"{path}, {rows_at}, row {number}", folder=path.parent)
        check_cells(row)
        yield row


def _find_columns(rows: Sequence[Row], columns: Columns, *, path: Path, needs_references: bool) -> Columns:
    there = {str(name): None for row in rows for name in row.cells}

    def find(what: str, named: str | None, *, needed: bool = False) -> str | None:
        if named is not None and named not in there:
            raise TaskError(f"{path}: the column '{named}' was not found{did_you_mean(named, there)}")
        found = named or next((usual for usual in _USUAL[what] if usual in there), None)
        if found is None and needed:
            raise TaskError(
                f"{path}: no column for the {what} was found (looked for {', '.join(_USUAL[what])}). The file "
                f"has: {', '.join(there)}. Name the column with --{what}-column."
            )
        return found

    return Columns(
        prediction=find("prediction", columns.prediction, needed=True),
        reference=find("reference", columns.reference, needed=needs_references),
        id=find("id", columns.id),
        image=find("image", columns.image),
        choices=find("choices", columns.choices),
    )


def _prediction(row: Row, columns: Columns, *, number: int, folder: Path) -> Prediction:
    cells, where = row.cells, row.where

    def cell(column: str | None) -> Any:
        return None if column is None else cells.get(column)

    if columns.reference is not None and cell(columns.reference) is None:
        raise TaskError(f"{where}: '{columns.reference}' is empty. Every row needs a reference answer.")
    task, named = cells.get("task"), cell(columns.id)
    sample = Sample(
        id=str(number) if named is None else str(named),
        question=str(cells.get("question") or ""),
        wording=_text_or_none(cells.get("wording")),
        context=_text_or_none(cells.get("context")),
        references=_texts(cell(columns.reference), where=where),
        images=tuple(
            PictureFile(path=picture_path(name, folder=folder, where=where).resolve())
            for name in _texts(cell(columns.image), where=where)
        ),
        choices=_texts(listed(cell(columns.choices)), where=where),
        tags=frozenset(_texts(cells.get("tags"), where=where)),
    )
    text = _texts(cell(columns.prediction), where=where)
    if len(text) != 1:
        raise TaskError(f"{where}: should hold one prediction in '{columns.prediction}', but holds {len(text)}.")
    repeat = str(cells.get("repeat") or 0)
    return Prediction(
        where=where,
        task=task if isinstance(task, str) else None,
        sample=sample,
        text=text[0],
        repeat=int(repeat) if repeat.isdecimal() else 0,
    )


def _text_or_none(cell: Any) -> str | None:
    return cell if isinstance(cell, str) else None


def _texts(cell: Any, *, where: str) -> tuple[str, ...]:
    """Return the text, number or path in a cell, or those in its list, as texts; nothing for an empty cell."""
    values = cell if isinstance(cell, (list, tuple)) else () if cell is None else (cell,)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (str, int, float, Path)):
            raise TaskError(f"{where}: should hold texts or numbers, but holds {value!r:.60}.")
    return tuple(map(str, values))
