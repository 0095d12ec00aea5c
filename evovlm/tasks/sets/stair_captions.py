"""STAIR Captions: photographs (COCO) with five Japanese captions each; the closest of them counts.

{"image_id": 1, "image": {"bytes": ...}, "file_name": "...", "annotations": [{"annotation_id": 11, "image_id": 1,
 "caption": "赤いバスが通りを走っている"}, ...]}     shunk031/STAIR-Captions (v1.2.0), CC BY 4.0
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

QUESTION = "この画像を一文で説明してください。"
"""The data set does not contain a question."""

DATA = Published(
    hub_id="shunk031/STAIR-Captions",
    splits={Split.SEARCH: "train", Split.REPORT: "validation"},
    configs=("v1.2.0",),
    # A loading script, as for MGSM: the hub's Parquet copy, where it has made one.
    folder="v1.2.0",
    revision="refs/convert/parquet",
)


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return one sample per photograph. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=row.text("image_id"),
            question=QUESTION,
            references=_captions(row),
            images=(row.picture("image"),),
        )
        for row in DATA.rows(split, data)
    )
    return DATA.checked(samples, split=split, data=data)


def _captions(row: Row) -> tuple[str, ...]:
    return tuple(Row(cells=cells, where=row.where).text("caption") for cells in row.mappings("annotations"))
