"""JA-VLM-Bench-In-the-Wild: 50 questions about 42 photographs of Japan. Only reported on.

{"image": {"bytes": ...}, "question": "この鳥居は何色ですか？", "answer": "朱色です。", "page_url": ..., ...}
                                                 SakanaAI/JA-VLM-Bench-In-the-Wild, split test
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="SakanaAI/JA-VLM-Bench-In-the-Wild", splits={Split.REPORT: "test"})


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=f"{number:03d}",
            question=row.text("question"),
            references=(row.text("answer"),),
            images=(row.picture("image"),),
        )
        for number, row in enumerate(DATA.rows(split, data), start=1)
    )
    return DATA.checked(samples, split=split, data=data)
