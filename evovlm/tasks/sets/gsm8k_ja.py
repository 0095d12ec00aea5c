"""GSM8K in Japanese, the 1069 test questions that are not in MGSM: what the paper's search saw. It has no report split.

{"question": "...", "answer": "...", "answer_number": 18}     SakanaAI/gsm8k-ja-test_250-1319, Apache-2.0
"""

from collections.abc import Iterable
from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.sets.gsm8k import N_TEST

COLUMNS = ("question", "answer_number")
DATA = Published(hub_id="SakanaAI/gsm8k-ja-test_250-1319", splits={Split.SEARCH: "test"}, columns=COLUMNS)
_N_IN_MGSM = 250


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions; a translation of all 1319, which begins with MGSM's, is read too. Raises TaskError."""
    rows = list(DATA.rows(split, data))
    first = 0 if len(rows) == N_TEST else _N_IN_MGSM
    return problem_samples(rows, first=first, published=DATA, split=split, data=data)


def problem_samples(
    rows: Iterable[Row], *, first: int, published: Published, split: Split, data: Path | None
) -> tuple[Sample, ...]:
    """Return the samples of rows with `question` and `answer_number`; row 0 is question `first` of GSM8K's test."""
    samples = (
        Sample(
            id=f"{index + 1:04d}",
            question=row.text("question"),
            references=(row.number("answer_number"),),
            origin=f"gsm8k-test/{first + index}",
        )
        for index, row in enumerate(rows)
    )
    return published.checked(samples, split=split, data=data)
