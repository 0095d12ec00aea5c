"""GSM8K in Japanese, the 1069 test questions that are not in MGSM: what the paper's search saw. It has no report split.

{"question": "...", "answer": "...", "answer_number": 18}     SakanaAI/gsm8k-ja-test_250-1319, Apache-2.0
"""

from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.rows import Row, hub_rows, read_rows, value_of
from evovlm.tasks.sample import Sample, Split, check_samples

HUB_ID = "SakanaAI/gsm8k-ja-test_250-1319"
COLUMNS = ("question", "answer_number")


def load(split: Split, files: Path | None) -> tuple[Sample, ...]:
    """Return the questions, from the hub or from a local copy. Raises TaskError for the report split."""
    if split is not Split.SEARCH:
        raise TaskError("gsm8k_ja is what searches see; it has no report split. Report on mgsm_ja.")
    rows = read_rows(files, columns=COLUMNS, parts=("search", "test")) if files else hub_rows(HUB_ID, split="test")
    return problem_samples(rows, where=str(files or HUB_ID))


def problem_samples(rows: list[Row], *, where: str) -> tuple[Sample, ...]:
    """Return the samples of rows with a `question` and an `answer_number`. Raises TaskError for rows without them."""
    samples = tuple(
        _sample(row, id=f"{number:04d}", where=f"{where}, row {number}") for number, row in enumerate(rows, 1)
    )
    return check_samples(samples, where=where)


def _sample(row: Row, *, id: str, where: str) -> Sample:
    number = str(value_of(row, "answer_number", where=where)).replace(",", "")
    try:
        float(number)
    except ValueError as problem:
        raise TaskError(f"{where}: 'answer_number' should be a number, and is {number!r}. Correct it.") from problem
    return Sample(id=id, question=str(value_of(row, "question", where=where)), references=(number,))
