"""JDocQA: questions about pages of Japanese documents, with up to four pictures each. Only reported on.

{"question_id": "...", "question": "この資料が扱う年度はいつですか?", "answer": "令和2年度です。", "answer_type": 1,
 "image_0": {"bytes": ...}, "image_1": None, ...}     speed/JDocQA, split test, CC BY-SA 4.0
"""

from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="speed/JDocQA", splits={Split.REPORT: "test"})
KINDS = ("yes_no", "factoid", "numerical", "open")
"""The kinds of answers by their number; they decide how an answer is scored."""

_PICTURES = tuple(f"image_{number}" for number in range(4))


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions, tagged by the kind of answer. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=row.text("question_id"),
            question=row.text("question"),
            references=(row.text("answer"),),
            images=row.pictures(_PICTURES),
            tags=frozenset({_kind(row)}),
        )
        for row in DATA.rows(split, data)
    )
    return DATA.checked(samples, split=split, data=data)


def _kind(row: Row) -> str:
    number = row.text("answer_type")
    if number not in map(str, range(len(KINDS))):
        raise TaskError(f"{row.where}: 'answer_type' should be 0 to {len(KINDS) - 1}, and is {number!r}. Correct it.")
    return KINDS[int(number)]
