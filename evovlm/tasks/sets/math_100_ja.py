"""MATH-100 in Japanese (MCLM): problems of school competitions, from MATH-500. Only reported on.

Asked as in the Swallow leaderboard.

{"ja": "$f(x)=...$ のグラフには、...を求めなさい。", "answer": "\\\\frac{3}{2}", "en": "...", ...}
                                                  amphora/MCLM, config MT-MATH100, split test, MIT
"""

from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.sets.swallow import STEP_BY_STEP, boxed_wording

DATA = Published(hub_id="amphora/MCLM", configs=("MT-MATH100",), splits={Split.REPORT: "test"})
_WORDING = boxed_wording(
    "以下の数学の問題を、わかりやすく、論理的に解いてください。",
    holds="解答となる数式または数値",
    thinking=f"{STEP_BY_STEP}\n\n",
)


def load(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return the problems. Raises TaskError for data that is missing or broken."""
    samples = (
        Sample(
            id=f"{number:03d}",
            question=row.text("ja"),
            references=(row.text("answer"),),
            wording=f"{_WORDING}{row.text('ja')}",
        )
        for number, row in enumerate(DATA.rows(split, data), start=1)
    )
    return DATA.checked(samples, split=split, data=data)
