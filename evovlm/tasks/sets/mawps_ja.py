"""MAWPS in Japanese, names, units and places made Japanese too: 1,000 one-step problems, to search with.

{"idx": 2, "question": "問題：山崎の高校は今年、試合を12回行いました。...\\n解答：", "answer": "8", "float": 0}
                                                 nlp-waseda/chain-of-thought-ja-dataset (GitHub), Apache-2.0
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split

DATA = Published(
    hub_id=None,
    splits={Split.SEARCH: "test"},
    parts=("dataset_mawps_test",),
    elsewhere="https://github.com/nlp-waseda/chain-of-thought-ja-dataset (dataset_mawps_test.json)",
)


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the problems, without the words around them that a prompt brings. Raises TaskError without `data`."""
    samples = (
        Sample(
            id=str(row.value("idx")),
            question=row.text("question").removeprefix("問題：").removesuffix("解答：").strip(),
            references=(row.number("answer"),),
        )
        for row in DATA.rows(split, data)
    )
    return DATA.checked(samples, split=split, data=data)
