"""A user's task that is only a folder (pictures and a table of questions and answers), or only a table.

my-pictures/report.csv      question,answer,image
                            これは何ですか。,祭りの神輿,photo1.jpg
my-pictures/photo1.jpg

A search may see a file called search or train; any other single file, or one called report or test, is reported. So is
a table that is named itself, whatever it is called.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.metrics.references import number_of
from evovlm.tasks.own.tables import read_files, refuse_outside
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Split

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".xlsx")
_SPLITS: Mapping[Split, tuple[str, ...]] = {
    Split.SEARCH: ("search", "train", "training"),
    Split.REPORT: ("report", "test", "validation", "valid", "val", "dev"),
}
# The first that is there is taken: an answer key before what may be someone's answer.
_USUAL: Mapping[str, tuple[str, ...]] = {
    "question": (
        "question",
        "q",
        "prompt",
        "input",
        "instruction",
        "problem",
        "query",
        "質問",
        "質問文",
        "問題",
        "問題文",
        "設問",
        "問い",
        "問",
        "指示",
        "入力",
    ),
    "answer": (
        "answer",
        "answers",
        "a",
        "reference",
        "references",
        "caption",
        "target",
        "label",
        "gold",
        "expected",
        "groundtruth",
        "correctanswer",
        "答え",
        "模範解答",
        "模範回答",
        "正解",
        "正答",
        "解答",
        "回答",
        "答",
        "出力",
        "output",
        "response",
        "solution",
    ),
    "image": (
        "image",
        "images",
        "picture",
        "photo",
        "imagepath",
        "imagefile",
        "filename",
        "画像",
        "画像ファイル",
        "画像名",
        "写真",
        "図",
        "ファイル名",
    ),
    "id": ("id", "questionid", "sampleid", "番号", "問題番号"),
}
_NEEDED = ("question", "answer")
_MOST_LOOKED_AT = 1000
_MOSTLY = 0.9
"""The share of answers that must be numbers for accuracy: a few slips in a table do not make it a task of texts."""
_SHOWN = 24
_LONGEST_NAME = 40


def describe_folder(folder: Path, *, taken: Collection[str]) -> Mapping[str, object]:
    """Return the content of a task file for the folder: splits from file names, columns from their names, the metric.

    Answers are compared by ROUGE-L, or by accuracy if it has no pictures and nearly each of the first answers is a
    number. Raises TaskError when the files or columns are not clear.
    """
    splits = _splits(folder)
    return {
        # Journals of searches name their tasks: a folder's name stays what it was before other letters were allowed.
        "name": name_of(re.sub(r"[^A-Za-z0-9_-]+", "_", folder.resolve().name), taken),
        "splits": {split.value: part for split, part in splits.items()},
        **describe_tables([folder / part for part in splits.values()], folder=folder),
        "description": f"the questions in {folder}",
    }


def describe_table(table: Path, *, taken: Collection[str]) -> Mapping[str, object]:
    """Return the content of a task file for a table, all of whose rows are reported. Raises as `describe_folder`."""
    refuse_outside(table, table.parent)
    return {
        "name": name_of(table.stem, taken),
        "splits": {Split.REPORT.value: table.name},
        **describe_tables([table], folder=table.parent),
        "description": f"the questions in {table}",
    }


def describe_tables(tables: Sequence[Path], *, folder: Path) -> Mapping[str, object]:
    """Return columns and metric of tables in a folder, as a task file has them. Raises as `describe_folder` does."""
    # Rows that cannot be read are reported by the task, which leaves them out.
    whole = [read_files(table, on_bad_row=lambda _: None) for table in tables]
    parts = [islice((row for row in rows if not row.is_blank), _MOST_LOOKED_AT) for rows in whole]
    rows = [row for part in parts for row in part]
    if not rows:
        named = ", ".join(table.name for table in tables)
        raise TaskError(f"{folder}: {named} holds no rows. Give a question and an answer in each.")
    columns = _columns(rows[0])
    numbers = sum(_is_number(row, columns["answer"]) for row in rows)
    counts = "image" not in columns and numbers >= _MOSTLY * len(rows)
    return {"columns": columns, "metric": "accuracy" if counts else "rouge_l_ja"}


def only_table(folder: Path) -> str:
    """Return the name of the only table in a folder. Raises TaskError for several, or none."""
    files = tables_in(folder)
    if len(files) != 1:
        there = ", ".join(path.name for path in files) or "none"
        raise TaskError(f"{folder}: one table is needed to split (tables there: {there}). Name it with `table:`.")
    refuse_outside(files[0], folder)
    return files[0].name


def tables_in(folder: Path) -> list[Path]:
    """Return the tables in a folder, but not in its folders."""
    return sorted(
        path
        for path in folder.iterdir()
        # Excel's own lock file beside an open workbook.
        if path.is_file() and path.suffix.lower() in ENDINGS and not path.name.startswith("~$")
    )


def is_named_for_a_split(table: Path) -> bool:
    """Return whether a table's name says which split it is: search.csv, test.csv."""
    return any(table.stem.lower() in names for names in _SPLITS.values())


def _splits(folder: Path) -> Mapping[Split, str]:
    files = tables_in(folder)
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
    known = {_plain(str(column)): str(column) for column in reversed(list(row.cells))}
    found = {what: next((known[name] for name in names if name in known), None) for what, names in _USUAL.items()}
    missing = [what for what in _NEEDED if found[what] is None]
    if missing:
        there = ", ".join(map(_short, row.cells))
        if len(missing) == len(_NEEDED):
            file = row.where.rpartition(":")[0] or row.where
            raise TaskError(
                f"{file}: its first row should name the columns, and none of its cells ({there}) is the name of the "
                "question or the answer.\n    Put a row with the names above the first question: question,answer (or "
                "質問,答え); or rename the columns."
            )
        wanted = "; ".join(f"{what}: {', '.join(_USUAL[what])}" for what in missing)
        raise TaskError(
            f"{row.where}: no column ({there}) is the {' or the '.join(missing)}.\n"
            f"    Rename one ({wanted}), or write a task file that names them (docs/scoring.md, 'A task of your own')."
        )
    return {what: column for what, column in found.items() if column is not None}


def _plain(column: str) -> str:
    """Return a column's name without widths, case, blanks, underscores and a remark in brackets behind it."""
    name = unicodedata.normalize("NFKC", column).strip().casefold()
    return re.sub(r"[\s_-]+", "", re.sub(r"\s*[(\[【].*$", "", name))


def _short(column: object) -> str:
    text = str(column)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_number(row: Row, column: str) -> bool:
    value = row.get(column)
    answers: Sequence[object] = value if isinstance(value, list) else [value]
    return bool(answers) and all(number_of(str(each)) is not None for each in answers)


def name_of(file: str, taken: Collection[str]) -> str:
    """Return the name of a task, from that of its folder or table; it is not one of those `taken`."""
    name = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFKC", file)).strip("_")[:_LONGEST_NAME] or "own"
    return f"{name}_own" if name in taken else name
