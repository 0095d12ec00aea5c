"""PolyMath in Japanese: 125 problems of each of four levels, from primary school to olympiads. Only reported on.

Asked as in the Swallow leaderboard.

{"id": "low-ja-0", "question": "ジャネットのアヒルは...", "answer": "18"}
                                                  Qwen/PolyMath, config ja, splits low, medium, high, top
"""

from collections.abc import Iterator
from pathlib import Path

from evovlm.tasks.published import CACHED, Published, is_on_hub
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.sets.swallow import boxed_wording

LEVELS = ("low", "medium", "high", "top")
_DATA = tuple(Published(hub_id="Qwen/PolyMath", configs=("ja",), splits={Split.REPORT: level}) for level in LEVELS)
DATA = _DATA[0]
_WORDING = boxed_wording("以下の数学の問題を解いてください。", holds="解答となる数式または数値")


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the problems of all levels, tagged by level. Raises TaskError for data that is missing or broken."""
    return DATA.checked((_sample(row) for row in _rows(split, data)), split=split, data=data)


def _rows(split: Split, data: Path | None) -> Iterator[Row]:
    is_local = data is not None and data != CACHED and not is_on_hub(data)
    # A local copy is one file, or a folder with one file for each level, as on the hub.
    whole = is_local and data is not None and not any(data.glob(f"{LEVELS[-1]}.*"))
    for published in _DATA[:1] if whole else _DATA:
        yield from published.rows(split, data)


def _sample(row: Row) -> Sample:
    number = row.text("id")
    return Sample(
        id=number,
        question=row.text("question"),
        references=(row.text("answer"),),
        tags=frozenset({number.split("-", 1)[0]} & {*LEVELS}),
        wording=f"{_WORDING}問題: \n{row.text('question')}",
    )
