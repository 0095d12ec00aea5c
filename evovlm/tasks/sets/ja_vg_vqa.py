"""Questions about photographs (Visual Genome) in Japanese; of each picture only the first question, as in the paper.

{"image_id": 1, "image": {"bytes": ...}, "qas": [{"qa_id": 1, "question": "時計は何色ですか？", "answer": "緑"}, ...]}
                                                      SakanaAI/JA-VG-VQA-500: train 1000 pictures, test 500, CC BY 4.0
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="SakanaAI/JA-VG-VQA-500", splits={Split.SEARCH: "train", Split.REPORT: "test"})


def load_questions(split: Split, data: Path | None, *, every: bool) -> tuple[Sample, ...]:
    """Return the first question of each picture, or `every` one. Raises TaskError for data that is missing or broken.

    A local copy has the hub's columns, or `question` and `answer` in place of `qas`.
    """
    samples = (sample for row in DATA.rows(split, data) for sample in _samples(row, every=every))
    return DATA.checked(samples, split=split, data=data)


def _samples(row: Row, *, every: bool) -> Iterator[Sample]:
    asked = row.mappings("qas") if row.get("qas") is not None else (row.cells,)
    picture = row.picture("image")
    picture_id = str(row.get("image_id") or picture.key)
    for number, cells in enumerate(asked if every else asked[:1], start=1):
        question = Row(cells=cells, where=f"{row.where}, question {number}")
        yield Sample(
            id=f"{picture_id}-{cells.get('qa_id') or number}" if every else picture_id,
            question=question.text("question"),
            references=(question.text("answer"),),
            images=(picture,),
        )


load = partial(load_questions, every=False)
load_all = partial(load_questions, every=True)
