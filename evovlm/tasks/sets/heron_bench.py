"""Japanese Heron-Bench: 103 questions about 21 pictures, with GPT-4's answers as references. Only reported on.

The published score asks GPT-4 to judge (`--metric judge_heron`); ROUGE-L holds an answer against GPT-4's.

{"question_id": 1, "image": "001.jpg", "category": "complex", "image_category": "anime", "context": "...",
 "text": "映像に写っている少年は何をしていますか？"}    japanese-heron-bench_questions_ja.jsonl
{"question_id": 1, ..., "text": "映像に写っている少年は、机に置かれた...", "model_id": "gpt-4-0125-preview"}
"""

from collections.abc import Mapping
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.own.tables import read_files, refuse_outside
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="Silviase/Japanese-Heron-Bench", splits={Split.REPORT: "train"})
_QUESTIONS = "japanese-heron-bench_questions_ja.jsonl"
_ANSWERS = "japanese-heron-bench_answers_gpt4.jsonl"
_PICTURES = "images"
_ANSWERED_BY = "gpt-4-0125-preview"


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions; `data` may be a folder as its authors publish it, `images` beside the two JSONL files.

    The tags are the categories: conv, detail, complex. Raises TaskError for data that is missing or broken.
    """
    rows = _authors_rows(data) if data is not None and (data / _QUESTIONS).is_file() else DATA.rows(split, data)
    samples = (
        Sample(
            id=row.text("question_id"),
            question=row.text("text"),
            references=(_reference(row),),
            images=(row.picture("image"),),
            tags=frozenset({row.text("category")}),
            context=str(row.get("context") or ""),
        )
        for row in rows
    )
    return DATA.checked(samples, split=split, data=data)


def _authors_rows(folder: Path) -> list[Row]:
    for name in (_QUESTIONS, _ANSWERS, _PICTURES):
        refuse_outside(folder / name, folder)
    answers = {row.text("question_id"): row.text("text") for row in read_files(folder / _ANSWERS)}
    rows = []
    for row in read_files(folder / _QUESTIONS):
        question_id = row.text("question_id")
        if question_id not in answers:
            raise TaskError(f"{row.where}: question {question_id} has no answer in {folder / _ANSWERS}. Complete it.")
        answer = {_ANSWERED_BY: answers[question_id]}
        rows.append(Row(cells={**row.cells, "answer": answer}, where=row.where, folder=folder / _PICTURES))
    return rows


def _reference(row: Row) -> str:
    answer = row.value("answer")
    if not isinstance(answer, Mapping) or not answer.get(_ANSWERED_BY):
        raise TaskError(f"{row.where}: 'answer' should hold one by {_ANSWERED_BY}, and is {answer!r:.80}.")
    return str(answer[_ANSWERED_BY])
