"""The embedded questions about pictures of emoji, in Japanese and in English.

{"id": "emoji-search-0000", "question": "写っているものの名前は?", "answer": "富士山",
 "picture": {"artist": "openmoji", "background": ["#2068e6"], "objects": [{"emoji": "🗻", "x": 37.6, ...}]},
 "tags": ["culture", "one", "openmoji"]}
"""

from functools import partial
from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.emoji_pictures import from_fields
from evovlm.tasks.rows import embedded_file, read_rows, value_of
from evovlm.tasks.sample import Sample, Split, check_samples


def load_questions(split: Split, files: Path | None, *, language: str) -> tuple[Sample, ...]:
    """Return the questions of a split; `files` replaces the embedded file. Raises TaskError for data that is amiss."""
    path = files or embedded_file(f"emoji_{language}.{split}")
    samples = []
    for number, row in enumerate(read_rows(path, parts=(f"emoji_{language}.{split}", str(split))), start=1):
        where = f"{path}, row {number}"
        picture = value_of(row, "picture", where=where)
        if not isinstance(picture, dict):
            raise TaskError(f"{where}: 'picture' should be a picture's specification.")
        samples.append(
            Sample(
                id=str(row.get("id", number)),
                question=str(value_of(row, "question", where=where)),
                references=(str(value_of(row, "answer", where=where)),),
                images=(from_fields(picture),),
                tags=frozenset(map(str, row.get("tags", ()))),
            )
        )
    return check_samples(tuple(samples), where=str(path))


load_ja = partial(load_questions, language="ja")
load_en = partial(load_questions, language="en")
