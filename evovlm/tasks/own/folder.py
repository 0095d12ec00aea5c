"""A user's task that is only a folder: pictures and a table of questions and answers.

my-pictures/report.csv      question,answer,image
                            これは何ですか。,祭りの神輿,photo1.jpg
my-pictures/photo1.jpg

A search may see a file called search or train; any other single file, or one called report or test, is reported.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.own.tables import read_files, refuse_outside
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Split

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_SPLITS: Mapping[Split, tuple[str, ...]] = {
    Split.SEARCH: ("search", "train", "training"),
    Split.REPORT: ("report", "test", "validation", "valid", "val", "dev"),
}
_USUAL: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "q", "prompt", "input", "instruction", "質問", "問題", "問い"),
    "answer": (
        "answer",
        "answers",
        "a",
        "reference",
        "references",
        "caption",
        "target",
        "label",
        "答え",
        "回答",
        "正解",
    ),
    "image": (
        "image",
        "images",
        "picture",
        "photo",
        "image_path",
        "image_file",
        "file_name",
        "filename",
        "画像",
        "写真",
    ),
    "id": ("id", "question_id", "sample_id"),
}
_NEEDED = ("question", "answer")
_LOOKED_AT = 50


def describe_folder(folder: Path, *, taken: Collection[str]) -> Mapping[str, object]:
    """Return the content of a task file for the folder: splits from file names, columns from their names, the metric.

    Answers are compared by ROUGE-L, or by accuracy if it has no pictures and each of the first answers is a number.
    Raises TaskError when the files or columns are not clear.
    """
    splits = _splits(folder)
    rows = [row for part in splits.values() for row in islice(read_files(folder / part), _LOOKED_AT)]
    if not rows:
        raise TaskError(f"{folder}: {', '.join(splits.values())} holds no rows. Give a question and an answer in each.")
    columns = _columns(rows[0])
    counts = "image" not in columns and all(_is_number(row, columns["answer"]) for row in rows)
    return {
        "name": _name(folder, taken),
        "splits": {split.value: part for split, part in splits.items()},
        "columns": columns,
        "metric": "accuracy" if counts else "rouge_l_ja",
        "description": f"the questions in {folder}",
    }


def _splits(folder: Path) -> Mapping[Split, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in ENDINGS)
    named = {split: [path for path in files if path.stem.lower() in names] for split, names in _SPLITS.items()}
    if len(files) == 1 and not any(named.values()):
        named[Split.REPORT] = files
    found = {split: paths[0].name for split, paths in named.items() if len(paths) == 1}
    if found and all(len(paths) <= 1 for paths in named.values()):
        for name in found.values():
            refuse_outside(folder / name, folder)
        return found
    there = ", ".join(path.name for path in files) or "none"
    raise TaskError(
        f"{folder}: its table of questions and answers is not clear (tables there: {there}).\n"
        "    Put one table there, or two called search.csv (what a search may see) and report.csv; or write a task "
        "file (docs/scoring.md, 'A task of your own')."
    )


def _columns(row: Row) -> Mapping[str, str]:
    lower = {str(column).strip().lower(): str(column) for column in reversed(list(row.cells))}
    found = {what: next((lower[name] for name in names if name in lower), None) for what, names in _USUAL.items()}
    missing = [what for what in _NEEDED if found[what] is None]
    if missing:
        wanted = "; ".join(f"{what}: {', '.join(_USUAL[what])}" for what in missing)
        raise TaskError(
            f"{row.where}: no column ({', '.join(map(str, row.cells))}) is the {' or the '.join(missing)}.\n"
            f"    Rename one ({wanted}), or write a task file that names them (docs/scoring.md, 'A task of your own')."
        )
    return {what: column for what, column in found.items() if column is not None}


def _is_number(row: Row, column: str) -> bool:
    value = row.get(column)
    answers: Sequence[object] = value if isinstance(value, list) else [value]
    return all(re.fullmatch(r"-?[0-9][0-9,]*(\.[0-9]+)?", str(each).strip()) for each in answers)


def _name(folder: Path, taken: Collection[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", folder.resolve().name).strip("_") or "own"
    return f"{name}_own" if name in taken else name
