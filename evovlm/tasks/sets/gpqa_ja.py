"""GPQA main in Japanese (BenchMAX Science): 448 multiple-choice questions for PhD students. Only reported on.

Asked as in the Swallow leaderboard, which puts the right option at a random place; here the place depends on the row
alone.

{"Question": "...", "Correct Answer": "...", "Incorrect Answer 1": "...", "Incorrect Answer 2": "...", ...}
                                                  LLaMAX/BenchMAX_Science, config ja, split train, CC BY 4.0
"""

from pathlib import Path

from evovlm.seeding import derive_seed
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, letter_of
from evovlm.tasks.sets.swallow import choice_wording

DATA = Published(hub_id="LLaMAX/BenchMAX_Science", configs=("ja",), splits={Split.REPORT: "train"})
_WRONG = tuple(f"Incorrect Answer {number}" for number in range(1, 4))


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the questions. Raises TaskError for data that is missing or broken."""
    rows = enumerate(DATA.rows(split, data), start=1)
    return DATA.checked((_sample(row, number) for number, row in rows), split=split, data=data)


def _sample(row: Row, number: int) -> Sample:
    question, options = row.text("Question"), [row.text(column) for column in _WRONG]
    place = derive_seed("gpqa_ja", number) % (len(options) + 1)
    options.insert(place, row.text("Correct Answer"))
    return Sample(
        id=f"{number:03d}",
        question=question,
        references=(letter_of(place),),
        choices=tuple(options),
        wording=choice_wording(question, options, letters="A、B、C、Dから選んだ選択肢を"),
    )
