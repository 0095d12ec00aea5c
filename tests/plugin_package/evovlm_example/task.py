"""A task: capitals of countries, asked and answered in Japanese."""

from pathlib import Path

from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.task import Decoding, Sample, Split, Task

CAPITALS = {
    Split.SEARCH: {"日本": "東京", "フランス": "パリ", "イタリア": "ローマ"},
    Split.REPORT: {"ドイツ": "ベルリン", "スペイン": "マドリード"},
}


def load(split: Split, _data: Path | None) -> tuple[Sample, ...]:
    """Return the questions of a split."""
    return tuple(
        Sample(id=country, question=f"{country}の首都はどこですか。", references=(capital,))
        for country, capital in CAPITALS[split].items()
    )


CAPITALS_JA = Task(
    name="capitals_ja",
    description="capitals of countries, in Japanese",
    prompt="zoo-problem-ja",
    scoring=Scoring(metric="first_letter"),
    decoding=Decoding(max_new_tokens=4),
    load=load,
    needs_images=False,
    splits=frozenset(Split),
    is_local=True,
)
