"""The embedded word problems, in Japanese and in English.

{"id": "search-000", "question": "店にあめが41個あります。6個売れました。あと何個ありますか。",
 "answer": "まず41-6=35個。答えは35個です。", "number": 35, "kind": "lose", "steps": 1, "tags": ["steps-1"]}
"""

from functools import partial
from pathlib import Path

from evovlm.tasks.rows import embedded_file, read_rows, value_of
from evovlm.tasks.sample import Sample, Split, check_samples


def load_problems(split: Split, files: Path | None, *, language: str) -> tuple[Sample, ...]:
    """Return the problems of a split; `files` replaces the embedded file. Raises TaskError for data that is amiss."""
    path = files or embedded_file(f"word_problems_{language}.{split}")
    samples = []
    for number, row in enumerate(read_rows(path, parts=(f"word_problems_{language}.{split}", str(split))), start=1):
        where = f"{path}, row {number}"
        samples.append(
            Sample(
                id=str(row.get("id", number)),
                question=str(value_of(row, "question", where=where)),
                references=(str(value_of(row, "number", where=where)),),
                tags=frozenset(map(str, row.get("tags", ()))),
            )
        )
    return check_samples(tuple(samples), where=str(path))


load_ja = partial(load_problems, language="ja")
load_en = partial(load_problems, language="en")
