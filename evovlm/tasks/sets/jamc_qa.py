"""JamC-QA: 2,309 multiple-choice questions about Japanese culture and everyday knowledge. Only reported on.

Asked as in the Swallow leaderboard; it shuffles the options anew each time, here they stay in the set's order.

{"qid": "jamcqa-test-culture-00001", "category": "culture", "question": "...", "choice0": "...", ..., "choice3": "...",
 "answer_index": 2}                               sbintuitions/JamC-QA, config v1.0, split test, CC BY-SA 4.0
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.sets.swallow import choice_wording

DATA = Published(hub_id="sbintuitions/JamC-QA", configs=("v1.0",), splits={Split.REPORT: "test"})
_OPTIONS = tuple(f"choice{number}" for number in range(4))


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions, tagged by category. Raises TaskError for data that is missing or broken."""
    return DATA.checked((_sample(row) for row in DATA.rows(split, data)), split=split, data=data)


def _sample(row: Row) -> Sample:
    question, options = row.text("question"), tuple(row.text(column) for column in _OPTIONS)
    return Sample(
        id=row.text("qid"),
        question=question,
        references=(row.letter("answer_index", n_choices=len(options)),),
        choices=options,
        tags=frozenset({row.text("category")}),
        wording=choice_wording(question, options, letters="A、B、C、Dから選んだ選択肢を", thinking=""),
    )
