"""Write the tasks of the search: own tasks of evovlm, whose search samples are never reported.

tasks/mawps/task.yaml, search.jsonl, report.jsonl      the searched set: drawn with a fixed seed
tasks/msvamp/task.yaml, report.jsonl                   sets that are only reported
tasks/english/task.yaml, search.jsonl                  English problems, for the pilot alone
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.real_weights.settings import ENGLISH, SETS, Settings
from evovlm.files import make_folder, write_file
from evovlm.seeding import generator
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.sample import Sample, Split

IN_ONE_LINE = "zoo-problem-ja"
"""The prompt of the adapters that are trained here; an answer to it ends with its line."""

LARGEST = 50
"""No number in the text of a short problem is larger."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

Rows = list[dict[str, str]]


def write_tasks(settings: Settings) -> None:
    """Write every task that does not exist. Raises TaskError for data that cannot be found."""
    for name in dict.fromkeys((settings.search_on, *settings.report_on)):
        if not (file := task_file(settings, name)).exists():
            rows = drawn_rows(problems(settings, name))
            searched = settings.search_samples if name == settings.search_on else 0
            report = rows[searched : searched + settings.report_samples]
            write_task(file.parent, {"search": rows[:searched], "report": report}, settings=settings)
    english = settings.local(ENGLISH)
    file = task_file(settings, "english")
    if english is not None and not file.exists():
        write_task(
            file.parent,
            {"search": english_rows(english, short=settings.short)[-settings.pilot_samples :]},
            settings=settings,
        )


def task_file(settings: Settings, name: str) -> Path:
    """Return the path of a task's file."""
    return settings.out / "tasks" / name / "task.yaml"


def problems(settings: Settings, name: str) -> Sequence[Sample]:
    """Return the problems of a set: of those for searches only the short ones, if the settings say so."""
    task_name, file = SETS[name]
    task = get_task(task_name)
    if Split.SEARCH not in task.splits:
        return task.read(Split.REPORT, data=settings.local(file)).samples
    samples = task.read(Split.SEARCH, data=settings.local(file)).samples
    return [each for each in samples if not settings.short or is_short(each.question, each.references[0])]


def is_short(question: str, answer: str) -> bool:
    """Return whether a problem has two numbers, whole and at most LARGEST, and a whole answer that is not negative.

    The rule knows nothing of models or their answers, and was chosen before any search.
    """
    found = [float(number) for number in _NUMBER.findall(unicodedata.normalize("NFKC", question).replace(",", ""))]
    whole = all(number.is_integer() for number in (*found, float(answer)))
    return whole and len(found) == 2 and max(found) <= LARGEST and float(answer) >= 0


def drawn_rows(samples: Sequence[Sample]) -> Rows:
    """Return the problems in an order that only depends on their number."""
    order = generator("real-weights", "problems", len(samples)).permutation(len(samples))
    return [
        {"id": samples[index].id, "question": samples[index].question, "answer": samples[index].references[0]}
        for index in order
    ]


def english_rows(path: Path, *, short: bool) -> Rows:
    """Return MSVAMP's English problems, or the short ones."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    order = generator("real-weights", "problems", len(rows)).permutation(len(rows))
    answers = [f"{float(row['response']):.15g}" for row in rows]
    return [
        {"id": f"{index + 1:04d}", "question": rows[index]["m_query"], "answer": answers[index]}
        for index in order
        if not short or is_short(rows[index]["m_query"], answers[index])
    ]


def write_task(folder: Path, splits: Mapping[str, Rows], *, settings: Settings) -> None:
    """Write a task's tables and, last, its file."""
    make_folder(folder)
    kept = {split: rows for split, rows in splits.items() if rows}
    for split, rows in kept.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_file(folder / f"{split}.jsonl", "".join(lines))
    japanese = folder.name != "english"
    document = {
        "name": f"{folder.name}-problems",
        "splits": {split: f"{split}.jsonl" for split in kept},
        "columns": {"question": "question", "answer": "answer", "id": "id"},
        "prompt": settings.prompt if japanese else "zoo-problem-en",
        "metric": "accuracy",
        **({"gate": "script"} if japanese else {}),
        "decoding": {
            "max_new_tokens": settings.max_new_tokens,
            **({"stop": ["\n"]} if settings.prompt == IN_ONE_LINE else {}),
        },
    }
    write_file(folder / "task.yaml", yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
