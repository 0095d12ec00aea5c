"""JMMMU: questions of college subjects in Japanese, with up to seven pictures each. Only reported on.

{"id": "test_Music_1", "question": "<image 1> 音程はどれですか?", "options": "['長3度', '短3度', '完全4度', '完全5度']",
 "answer": "A", "question_type": "multiple-choice", "image_1": {"bytes": ...}, "image_2": None, ..., "subfield": "..."}
                                                 JMMMU/JMMMU: one config per subject, split test, 1320 questions

JMMMU-Pro holds them twice: corrected, with options instead of the open questions (config standard), and as one picture
that shows question and options (config vision; {"id", "image", "options", "answer", ...}), as lmms-eval asks them.
"""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.prompts import CHOOSE_A_LETTER, SHORT_ANSWER
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

CULTURAL = ("Japanese_Art", "Japanese_Heritage", "Japanese_History", "World_History")
"""The subjects made for Japan; the others are translated from MMMU."""

SUBJECTS = (
    *("Accounting", "Agriculture", "Architecture_and_Engineering", "Basic_Medical_Science", "Biology", "Chemistry"),
    *("Clinical_Medicine", "Computer_Science", "Design", "Diagnostics_and_Laboratory_Medicine", "Economics"),
    *("Electronics", "Energy_and_Power", "Finance", "Manage", "Marketing", "Materials", "Math"),
    *("Mechanical_Engineering", "Music", "Pharmacy", "Physics", "Psychology", "Public_Health"),
    *CULTURAL,
)
DATA = Published(hub_id="JMMMU/JMMMU", configs=SUBJECTS, splits={Split.REPORT: "test"})
VERIFIED = Published(hub_id="JMMMU/JMMMU-Pro", configs=("standard",), splits={Split.REPORT: "test"})
PRO = Published(hub_id="JMMMU/JMMMU-Pro", configs=("vision",), splits={Split.REPORT: "test"})
IN_THE_PICTURE = f"あなたの役割は画像で与えられた問題を解くことです。{CHOOSE_A_LETTER}"
_PICTURES = tuple(f"image_{number}" for number in range(1, 8))
_KINDS = ("multiple-choice", "open")


def load_kind(split: Split, data: Path | None, *, kind: str, published: Published = DATA) -> tuple[Sample, ...]:
    """Return the questions of a kind, multiple-choice or open. Raises TaskError for data that is missing or broken.

    The tags are the subject of a question, if its id names one, and whether it was made for Japan.
    """
    samples = (_sample(row) for row in published.rows(split, data) if _kind(row) == kind)
    return published.checked(samples, split=split, data=data)


def load_pro(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return JMMMU-Pro's pictures of questions, with the tags of JMMMU. Raises TaskError as `load_kind` does."""
    samples = (
        Sample(
            id=row.text("id"),
            question=IN_THE_PICTURE,
            references=(row.text("answer").strip(),),
            images=(row.picture("image"),),
            choices=_listed(row, "options"),
            tags=frozenset(_tags(row.text("id"))),
            wording=IN_THE_PICTURE,
        )
        for row in PRO.rows(split, data)
    )
    return PRO.checked(samples, split=split, data=data)


def _kind(row: Row) -> str:
    kind = row.text("question_type")
    if kind not in _KINDS:
        raise TaskError(f"{row.where}: 'question_type' should be {' or '.join(_KINDS)}, and is {kind!r}. Correct it.")
    return kind


def _sample(row: Row) -> Sample:
    is_open = _kind(row) == "open"
    question = row.text("question")
    return Sample(
        id=row.text("id"),
        question=f"{question}\n\n{SHORT_ANSWER}" if is_open else question,
        references=_answers(row) if is_open else (row.text("answer").strip(),),
        images=row.pictures(_PICTURES),
        choices=() if is_open else _listed(row, "options"),
        tags=frozenset(_tags(row.text("id"))),
    )


def _tags(question_id: str) -> Iterator[str]:
    subject = next((subject for subject in SUBJECTS if subject in question_id), None)
    if subject is not None:
        yield subject
        yield "made-for-japan" if subject in CULTURAL else "translated"


def _answers(row: Row) -> tuple[str, ...]:
    """Return the right answers to an open question: one answer, or a list written as text."""
    text = row.text("answer").strip()
    return _listed(row, "answer") if text.startswith("[") else (text,)


def _listed(row: Row, column: str) -> tuple[str, ...]:
    value = row.value(column)
    try:
        listed = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise TaskError(f"{row.where}: '{column}' should be a list written as text, and is {value!r:.80}.") from error
    return Row(cells={column: listed}, where=row.where).texts(column)


load = partial(load_kind, kind="multiple-choice")
load_open = partial(load_kind, kind="open")
load_verified = partial(load_kind, kind="multiple-choice", published=VERIFIED)
