"""MECHA-ja: multiple-choice questions about photographs of Japanese culture. Only reported on.

{"image": {"bytes": ...}, "question": "行事は何ですか。", "options": ["節分", "七夕", "花見", "月見"], "answer": 0,
 "answer_type": 0, "background_text": "..."}      llm-jp/MECHA-ja, split test; answer_type 0 factoid, 1 not
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, letter_of

DATA = Published(hub_id="llm-jp/MECHA-ja", splits={Split.REPORT: "test"})
_TYPES = {"0": "factoid", "1": "non-factoid"}


def load_rotations(split: Split, data: Path | None, *, rotated: bool) -> tuple[Sample, ...]:
    """Return the questions; with `rotated`, each is asked once per option, with that option first.

    Raises TaskError for data that is missing or broken.
    """
    rows = enumerate(DATA.rows(split, data), start=1)
    samples = (sample for number, row in rows for sample in _samples(row, id=f"{number:04d}", rotated=rotated))
    return DATA.checked(samples, split=split, data=data)


def _samples(row: Row, *, id: str, rotated: bool) -> Iterator[Sample]:
    options = row.texts("options")
    right = ord(row.letter("answer", n_choices=len(options))) - ord("A")
    kind = row.get("answer_type")
    for shift in range(len(options) if rotated else 1):
        yield Sample(
            id=f"{id}-{shift}" if rotated else id,
            question=row.text("question"),
            references=(letter_of((right - shift) % len(options)),),
            images=(row.picture("image"),),
            choices=(*options[shift:], *options[:shift]),
            tags=frozenset({_TYPES[str(kind)]} if str(kind) in _TYPES else ()),
        )


load = partial(load_rotations, rotated=False)
load_rotated = partial(load_rotations, rotated=True)
