"""The embedded word problems, in Japanese and in English.

{"id": "search-000", "question": "店にあめが41個あります。6個売れました。あと何個ありますか。",
 "answer": "まず41-6=35個。答えは35個です。", "number": 35, "kind": "lose", "steps": 1, "tags": ["steps-1"]}
"""

from functools import partial
from pathlib import Path

from evovlm.tasks.published import embedded_samples
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split


def load_problems(split: Split, data: Path | None, *, language: str) -> tuple[Sample, ...]:
    """Return the problems of a split; `data` replaces the embedded file. Raises TaskError for broken data."""
    return embedded_samples(f"word_problems_{language}", split=split, data=data, make=_problem)


def _problem(row: Row, sample_id: str) -> Sample:
    return Sample(
        id=sample_id,
        question=row.text("question"),
        references=(row.number("number"),),
        tags=frozenset(map(str, row.get("tags") or ())),
    )


load_ja = partial(load_problems, language="ja")
load_en = partial(load_problems, language="en")
