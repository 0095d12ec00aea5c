"""GSM8K, grade-school word problems in English: 7,473 to search with, 1,319 to report on.

{"question": "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. ...",
 "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\nNatalia sold 48+24 = <<48+24=72>>72...\\n#### 72"}
                                                 openai/gsm8k (main), MIT
"""

from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="openai/gsm8k", configs=("main",), splits={Split.SEARCH: "train", Split.REPORT: "test"})
N_TEST = 1319
"""How many questions its test split has."""

_MARK = "####"


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the problems with the number after `####`. Raises TaskError for data that is missing or broken."""
    rows = list(DATA.rows(split, data))
    # A file of the test split given to a search is still the test split.
    part = "test" if len(rows) == N_TEST else DATA.splits[split]
    samples = (
        Sample(
            id=f"{index + 1:04d}",
            question=row.text("question"),
            references=(_number(row),),
            origin=f"gsm8k-{part}/{index}",
        )
        for index, row in enumerate(rows)
    )
    return DATA.checked(samples, split=split, data=data)


def _number(row: Row) -> str:
    _, mark, number = row.text("answer").rpartition(_MARK)
    if not mark:
        raise TaskError(f"{row.where}: 'answer' should end in '{_MARK} NUMBER', and has no '{_MARK}'. Correct it.")
    return row.as_number(number, "answer")
