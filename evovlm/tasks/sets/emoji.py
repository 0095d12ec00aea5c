"""The embedded questions about pictures of emoji, in Japanese and in English.

{"id": "emoji-search-0000", "question": "写っているものの名前は?", "answer": "富士山",
 "picture": {"artist": "openmoji", "background": ["#2068e6"], "objects": [{"emoji": "🗻", "x": 37.6, ...}]},
 "tags": ["culture", "one", "openmoji"]}
"""

from functools import partial
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.emoji_pictures import PictureSpec, from_fields
from evovlm.tasks.published import embedded_samples
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split


def load_questions(split: Split, data: Path | None, *, language: str) -> tuple[Sample, ...]:
    """Return the questions of a split; `data` replaces the embedded file. Raises TaskError for broken data."""
    return embedded_samples(f"emoji_{language}", split=split, data=data, make=_question)


def _question(row: Row, sample_id: str) -> Sample:
    picture = _picture(row)
    return Sample(
        id=sample_id,
        question=row.text("question"),
        references=(row.text("answer"),),
        images=(picture,),
        tags=frozenset(map(str, row.get("tags") or ())),
        absent=picture.absent,
    )


def _picture(row: Row) -> PictureSpec:
    fields = row.value("picture")
    if not isinstance(fields, dict):
        raise TaskError(f"{row.where}: 'picture' should be a picture's specification, and is {fields!r:.80}.")
    return from_fields(fields)


load_ja = partial(load_questions, language="ja")
load_en = partial(load_questions, language="en")
