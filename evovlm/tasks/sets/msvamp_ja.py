"""MSVAMP in Japanese: 1,000 short word problems, translated by machine. For searches: none are from GSM8K.

{"m_query": "ジュリアは月曜日に18人の子供と鬼ごっこをしました。火曜日には...", "query": "julia played tag with 18 ...",
 "equation": "- number0 number1", "response": "8.0"}     Mathoctopus/MSVAMP (ja); microsoft/MathOctopus (GitHub)
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split

DATA = Published(
    hub_id="Mathoctopus/MSVAMP", configs=("ja",), splits={Split.SEARCH: "test"}, parts=("test_Japanese", "ja")
)


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the problems. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=f"{index + 1:04d}",
            question=row.text("m_query"),
            references=(f"{float(row.number('response')):.15g}",),
            origin=f"msvamp/{index}",
        )
        for index, row in enumerate(DATA.rows(split, data))
    )
    return DATA.checked(samples, split=split, data=data)
