"""JEMHopQA 1.2: 120 questions that take facts about two things together, answered in a word. Only reported on.

Asked and scored as in the Swallow leaderboard.

{"question": "...はどちらが先に公開されましたか？", "answer": "...", ...}
                                                  tokyotech-llm/JEMHopQA, config v1.2, split validation, CC BY-SA 4.0
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.sets.swallow import STEP_BY_STEP, boxed_wording

DATA = Published(hub_id="tokyotech-llm/JEMHopQA", configs=("v1.2",), splits={Split.REPORT: "validation"})
_TASK = (
    "以下の問題に回答してください。二択問題の場合は 'YES' または 'NO' で答えてください。"
    "二択ではない問題は正しい文字列を答えてください。"
)
_WORDING = boxed_wording(_TASK, holds="問題の答え", thinking=f"{STEP_BY_STEP}\n\n")


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=f"{number:03d}",
            question=row.text("question"),
            references=(row.text("answer"),),
            wording=f"{_WORDING}問題: {row.text('question')}",
        )
        for number, row in enumerate(DATA.rows(split, data), start=1)
    )
    return DATA.checked(samples, split=split, data=data)
