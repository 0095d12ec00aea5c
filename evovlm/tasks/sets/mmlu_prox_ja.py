"""MMLU-ProX in Japanese: 11,759 questions of 14 fields with up to ten options. Only reported on.

Asked as in the Swallow leaderboard.

{"question_id": 70, "question": "...", "option_0": "...", ..., "option_9": null, "answer": "I", "answer_index": 8,
 "category": "business", "src": "..."}            li-lab/MMLU-ProX, config ja, split test, MIT
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, letter_of
from evovlm.tasks.sets.swallow import choice_wording

DATA = Published(hub_id="li-lab/MMLU-ProX", configs=("ja",), splits={Split.REPORT: "test"})
_OPTIONS = tuple(f"option_{number}" for number in range(10))


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions, tagged by field. Raises TaskError for data that is missing or broken."""
    rows = enumerate(DATA.rows(split, data), start=1)
    return DATA.checked((_sample(row, number) for number, row in rows), split=split, data=data)


def _sample(row: Row, number: int) -> Sample:
    question = row.text("question")
    options = tuple(str(option) for column in _OPTIONS if (option := row.get(column)) is not None)
    letters = ", ".join(map(letter_of, range(len(options))))
    return Sample(
        id=f"{number:05d}",
        question=question,
        references=(row.letter("answer_index", n_choices=len(options)),),
        choices=options,
        tags=frozenset({row.text("category")}),
        wording=choice_wording(question, options, letters=f"{letters}から1つ選んで"),
    )
