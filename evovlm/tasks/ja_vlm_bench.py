"""JA-VLM-Bench-In-the-Wild: 50 questions about 42 photographs of Japan. Only reported on.

{"image": {"bytes": ...}, "question": "...", "answer": "..."}     SakanaAI/JA-VLM-Bench-In-the-Wild, split test
"""

from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.pictures import picture_from_cell
from evovlm.tasks.rows import hub_rows, read_rows, value_of
from evovlm.tasks.sample import Sample, Split, check_samples

HUB_ID = "SakanaAI/JA-VLM-Bench-In-the-Wild"


def load(split: Split, files: Path | None) -> tuple[Sample, ...]:
    """Return the questions, from the hub or from a local copy. Raises TaskError for the search split."""
    if split is not Split.REPORT:
        raise TaskError("ja_vlm_bench is only reported on; no search may see it. Search on ja_vg_vqa or emoji_ja.")
    rows = read_rows(files, parts=("report", "test")) if files else hub_rows(HUB_ID, split="test")
    where = str(files or HUB_ID)
    samples = tuple(
        Sample(
            id=f"{number:03d}",
            question=str(value_of(row, "question", where=f"{where}, row {number}")),
            references=(str(value_of(row, "answer", where=f"{where}, row {number}")),),
            images=(picture_from_cell(value_of(row, "image", where=f"{where}, row {number}"), where=where),),
        )
        for number, row in enumerate(rows, start=1)
    )
    return check_samples(samples, where=where)
