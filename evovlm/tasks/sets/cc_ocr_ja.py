"""CC-OCR, its Japanese part: transcribe all text in a picture. Only reported on.

Asked and scored as in llm-jp-eval-mm: F1 of the characters, blanks aside.

{"index": 0, "image": "/9j/4AAQ...", "question": "Please output only the text content from the image without any
 additional descriptions or formatting.", "answer": "...", "l2-category": "Japanese", ...}
                                                  wulipc/CC-OCR, config multi_lan_ocr, split test; pictures in base64
"""

import base64
import binascii
from pathlib import Path

from evovlm.tasks.pictures import EncodedPicture
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import ImageSource, Sample, Split

DATA = Published(hub_id="wulipc/CC-OCR", configs=("multi_lan_ocr",), splits={Split.REPORT: "test"})
_LANGUAGE = "Japanese"
_SHORTEST = 64
"""Characters of a picture in base64: the names of files that could be base64 are shorter."""


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the pictures with Japanese text. Raises TaskError for data that is missing or broken."""
    rows = (row for row in DATA.rows(split, data) if row.text("l2-category") == _LANGUAGE)
    samples = (
        Sample(
            id=f"{number:03d}",
            question=row.text("question"),
            references=(row.text("answer"),),
            images=(_picture(row),),
        )
        for number, row in enumerate(rows, start=1)
    )
    return DATA.checked(samples, split=split, data=data)


def _picture(row: Row) -> ImageSource:
    cell = row.value("image")
    if isinstance(cell, str) and len(cell) >= _SHORTEST:
        try:
            return EncodedPicture(content=base64.b64decode(cell, validate=True), where=f"{row.where}, image")
        except binascii.Error:
            # The path of a file in a local copy.
            pass
    return row.picture("image")
