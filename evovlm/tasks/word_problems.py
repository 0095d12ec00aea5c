"""The embedded word problems, in Japanese and in English.

{"id": "search-000", "question": "店にあめが41個あります。6個売れました。あと何個ありますか。",
 "answer": "まず41-6=35個。答えは35個です。", "number": 35, "kind": "lose", "steps": 1, "tags": ["steps-1"]}
"""

from functools import partial
from pathlib import Path

from evovlm.tasks.files import read_files
from evovlm.tasks.published import embedded_file
from evovlm.tasks.sample import Sample, Split, check_samples


def load_problems(split: Split, data: Path | None, *, language: str) -> tuple[Sample, ...]:
    """Return the problems of a split; `data` replaces the embedded file. Raises TaskError for data that is amiss."""
    path = data or embedded_file(f"word_problems_{language}.{split}")
    rows = read_files(path, parts=(f"word_problems_{language}.{split}", str(split)))
    samples = tuple(
        Sample(
            id=str(row.get("id") or number),
            question=row.text("question"),
            references=(row.number("number"),),
            tags=frozenset(map(str, row.get("tags") or ())),
        )
        for number, row in enumerate(rows, start=1)
    )
    return check_samples(samples, where=str(path))


load_ja = partial(load_problems, language="ja")
load_en = partial(load_problems, language="en")
