"""ROUGE-L over Japanese words, as SakanaAI/evolutionary-model-merge counts it."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from fugashi import Tagger
    from rouge_score.rouge_scorer import RougeScorer

_PICTOGRAPHS = re.compile(
    "[\U0001f600-\U0001f64f\U0001f300-\U0001f5ff\U0001f680-\U0001f6ff\U0001f1e0-\U0001f1ff\u2702-\u27b0]+"
)


@lru_cache(maxsize=16384)
def words(text: str) -> tuple[str, ...]:
    """Split a text into MeCab's words (unidic-lite), without emoji, widths made alike. Case and punctuation stay."""
    import emoji
    import neologdn

    plain = "".join(character for character in text if not emoji.is_emoji(character))
    plain = " ".join(str(neologdn.normalize(_PICTOGRAPHS.sub("", plain))).split())
    return tuple(_tagger().parse(plain).split())


def rouge_l(reference: str, text: str) -> float:
    """Return the F1 of the longest common subsequence of words, in [0, 1]; 0 when either side is empty."""
    return float(_scorer().score(reference, text)["rougeL"].fmeasure)


class _Words:
    def tokenize(self, text: str) -> Sequence[str]:
        return words(text)


@lru_cache(maxsize=1)
def _tagger() -> "Tagger":
    from fugashi import Tagger

    return Tagger("-Owakati")


@lru_cache(maxsize=1)
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return cast("RougeScorer", RougeScorer(["rougeL"], tokenizer=_Words()))
