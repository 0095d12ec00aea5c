"""Questions about photographs (Visual Genome) in Japanese; of each picture only the first question, as in the paper.

{"image_id": 1, "image": {"bytes": ...}, "qas": [{"qa_id": 1, "question": "時計は何色ですか？", "answer": "緑"}, ...]}
                                                      SakanaAI/JA-VG-VQA-500: train 1000 pictures, test 500, CC BY 4.0
"""

from pathlib import Path
from typing import Any

from evovlm.errors import TaskError
from evovlm.tasks.pictures import picture_from_cell
from evovlm.tasks.rows import Row, hub_rows, read_rows, value_of
from evovlm.tasks.sample import Sample, Split, check_samples

HUB_ID = "SakanaAI/JA-VG-VQA-500"
_HUB_SPLITS = {Split.SEARCH: "train", Split.REPORT: "test"}


def load(split: Split, files: Path | None) -> tuple[Sample, ...]:
    """Return one question per picture: the hub's train split to search with, its test split to report on.

    A local copy has the hub's columns, or `question` and `answer` in place of `qas`. Raises TaskError for other data.
    """
    rows = (
        read_rows(files, parts=(split.value, _HUB_SPLITS[split]))
        if files
        else hub_rows(HUB_ID, split=_HUB_SPLITS[split])
    )
    where = str(files or f"{HUB_ID} ({_HUB_SPLITS[split]})")
    samples = tuple(_sample(row, where=f"{where}, row {number}") for number, row in enumerate(rows, start=1))
    return check_samples(samples, where=where)


def _sample(row: Row, *, where: str) -> Sample:
    question: dict[str, Any] = _first_question(row["qas"], where=where) if "qas" in row else dict(row)
    picture = picture_from_cell(value_of(row, "image", where=where), where=where)
    return Sample(
        id=str(row.get("image_id", picture.key)),
        question=str(value_of(question, "question", where=where)),
        references=(str(value_of(question, "answer", where=where)),),
        images=(picture,),
    )


def _first_question(questions: object, *, where: str) -> dict[str, Any]:
    # `datasets` before version 4 gave a list of structures as a structure of lists.
    if isinstance(questions, dict):
        return {name: values[0] for name, values in questions.items() if values}
    if isinstance(questions, list) and questions and isinstance(questions[0], dict):
        return questions[0]
    raise TaskError(f"{where}: 'qas' should be a list of questions with their answers.")
