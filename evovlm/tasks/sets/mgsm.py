"""MGSM, the first 250 test questions of GSM8K by language, on which the paper reports. No search may see it.

ジャネットのアヒルは1日に16個の卵を生みます。...彼女は毎日市場でいくら手に入れていますか？<TAB>18
                                                      juletxara/mgsm, or mgsm_ja.tsv of google-research/url-nlp
"""

from functools import partial
from pathlib import Path

from evovlm.tasks.published import Published
from evovlm.tasks.sample import Sample, Split
from evovlm.tasks.sets.gsm8k_ja import COLUMNS, problem_samples


def _published(language: str) -> Published:
    return Published(
        hub_id="juletxara/mgsm",
        splits={Split.REPORT: "test"},
        configs=(language,),
        # The repository itself is a loading script, which `datasets` no longer runs; the hub keeps a Parquet copy.
        folder=language,
        revision="refs/convert/parquet",
        columns=COLUMNS,
        parts=(f"mgsm_{language}",),
    )


JA, EN = _published("ja"), _published("en")


def load_mgsm(split: Split, data: Path | None, *, published: Published) -> tuple[Sample, ...]:
    """Return the questions. Raises TaskError for data that is missing or broken."""
    return problem_samples(published.rows(split, data), first=0, published=published, split=split, data=data)


load_ja = partial(load_mgsm, published=JA)
load_en = partial(load_mgsm, published=EN)
