"""JA-Multi-Image-VQA: 55 questions, each about several photographs. Only reported on.

{"images": [{"bytes": ...}, {"bytes": ...}], "question": "<image> <image> 人が多いのはどちらの駅ですか？",
 "answer": "左の駅です。"}                         SakanaAI/JA-Multi-Image-VQA, split test
"""

from pathlib import Path

from evovlm.tasks.prompts import without_places
from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="SakanaAI/JA-Multi-Image-VQA", splits={Split.REPORT: "test"})


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions, without their `<image>` tags. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=f"{number:03d}",
            question=without_places(row.text("question")),
            references=(row.text("answer"),),
            images=row.pictures(["images"]),
        )
        for number, row in enumerate(DATA.rows(split, data), start=1)
    )
    return DATA.checked(samples, split=split, data=data)
