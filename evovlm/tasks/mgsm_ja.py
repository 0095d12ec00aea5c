"""MGSM in Japanese, 250 questions: what the paper reports on. No search may see it.

ジャネットのアヒルは1日に16個の卵を生みます。...彼女は毎日市場でいくら手に入れていますか？<TAB>18
                                                      juletxara/mgsm, or mgsm_ja.tsv of google-research/url-nlp
"""

from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.gsm8k_ja import COLUMNS, problem_samples
from evovlm.tasks.rows import hub_rows, read_rows
from evovlm.tasks.sample import Sample, Split

HUB_ID = "juletxara/mgsm"
# The repository itself is a loading script, which `datasets` no longer runs; the hub keeps this Parquet copy of it.
_PARQUET = "@refs/convert/parquet/ja/test/*.parquet"


def load(split: Split, files: Path | None) -> tuple[Sample, ...]:
    """Return the questions, from the hub or from a local copy. Raises TaskError for the search split."""
    if split is not Split.REPORT:
        raise TaskError("mgsm_ja is only reported on; no search may see it. Search on gsm8k_ja or word_problems_ja.")
    rows = (
        read_rows(files, columns=COLUMNS, parts=("report", "test", "mgsm_ja"))
        if files
        else hub_rows(HUB_ID, split="test", files=_PARQUET)
    )
    return problem_samples(rows, where=str(files or HUB_ID))
