"""CVQA, its Japanese part: multiple-choice questions about photographs from Japan. Only reported on.

{"image": {"bytes": ...}, "ID": "0123456789_0", "Subset": "('Japanese', 'Japan')", "Question": "写真の料理は何ですか?",
 "Options": ["お好み焼き", "たこ焼き", "焼きそば", "うどん"], "Label": 1, "Category": "Cooking and food", ...}
                                                 afaji/cvqa, split test, 10,374 questions in all languages
"""

from pathlib import Path

from evovlm.errors import TaskError
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split

DATA = Published(hub_id="afaji/cvqa", splits={Split.REPORT: "test"})
_SUBSET = "('Japanese', 'Japan')"


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the Japanese questions, tagged by category. Raises TaskError for data that is missing or broken."""
    samples = (_sample(row) for row in DATA.rows(split, data) if row.text("Subset") == _SUBSET)
    return DATA.checked(samples, split=split, data=data)


def _sample(row: Row) -> Sample:
    options = row.texts("Options")
    if row.text("Label") == "-1":
        raise TaskError(
            f"{row.where}: 'Label' is -1: this revision of {DATA.hub_id} hides its answers. Take a later one."
        )
    return Sample(
        id=row.text("ID"),
        question=row.text("Question"),
        references=(row.letter("Label", n_choices=len(options)),),
        images=(row.picture("image"),),
        choices=options,
        tags=frozenset({row.text("Category")}),
    )
