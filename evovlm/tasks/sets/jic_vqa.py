"""JIC-VQA: what photographs of Japanese flowers, food, landmarks and facilities show. Only reported on.

The set has addresses instead of pictures; evovlm fetches none. llm-jp-eval-mm's scripts/prepare_jic_vqa.py makes the
file that is read here, dataset/jic_vqa.parquet. Asked and scored as there: the right category must occur in the answer.

{"question_id": 1, "image": {"bytes": ...}, "input_text": "この画像にはどの花が映っていますか？次の四つの選択肢から...",
 "answer": "アザミ", "domain": "jaflower30"}         line-corporation/JIC-VQA (id, category, question, url), Apache-2.0
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

DATA = Published(
    hub_id=None,
    splits={Split.REPORT: "train"},
    elsewhere="scripts/prepare_jic_vqa.py of https://github.com/llm-jp/llm-jp-eval-mm, which fetches its pictures",
    parts=("jic_vqa",),
)


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions, tagged by domain. Raises TaskError for data that is missing or broken."""
    return DATA.checked((_sample(row) for row in DATA.rows(split, data)), split=split, data=data)


def _sample(row: Row) -> Sample:
    return Sample(
        id=row.text("question_id"),
        question=row.text("input_text"),
        references=(row.text("answer"),),
        images=(row.picture("image"),),
        tags=frozenset({row.text("domain")}),
    )
