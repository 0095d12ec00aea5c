"""ROUGE over Japanese words, computed as in SakanaAI/evolutionary-model-merge."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from fugashi import Tagger
    from rouge_score.rouge_scorer import RougeScorer

_Kind: TypeAlias = Literal["rouge1", "rouge2"]
_PICTOGRAPHS = re.compile(
    "[\U0001f600-\U0001f64f\U0001f300-\U0001f5ff\U0001f680-\U0001f6ff\U0001f1e0-\U0001f1ff\u2702-\u27b0]+"
)


@lru_cache(maxsize=16384)
def words(text: str) -> tuple[str, ...]:
    """Split a text into MeCab's words (unidic-lite), without emoji, widths normalised. Keeps case and punctuation."""
    import emoji
    import neologdn

    plain = "".join(character for character in text if not emoji.is_emoji(character))
    plain = " ".join(str(neologdn.normalize(_PICTOGRAPHS.sub("", plain))).split())
    return tuple(_tagger().parse(plain).split())


def rouge_1(reference: str, text: str) -> float:
    """Return the F1 of the words that two texts share, in [0, 1]; 0 when either side is empty."""
    return _f1("rouge1", reference, text)


def rouge_2(reference: str, text: str) -> float:
    """Return the F1 of the word pairs (bigrams) that two texts share, in [0, 1]; 0 when either has none."""
    return _f1("rouge2", reference, text)


def rouge_l(reference: str, text: str) -> float:
    """Return the F1 of the longest common subsequence of words, in [0, 1]; 0 when either side is empty.

    The same number as that of `rouge_score`, whose table of words x words takes gigabytes for long texts.
    """
    from rouge_score.scoring import fmeasure

    wanted, found = words(reference), words(text)
    if not wanted or not found:
        return 0.0
    common = common_length(wanted, found)
    return float(fmeasure(common / len(found), common / len(wanted)))


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, with a bit for each word (Hyyro 2004, section 3)."""
    places: dict[str, int] = {}
    for number, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << number
    everything = (1 << len(one)) - 1
    missing = everything
    for word in other:
        matched = missing & places.get(word, 0)
        missing = (missing + matched | missing - matched) & everything
    return len(one) - missing.bit_count()


def bootstrap_mid(scores: Sequence[float], *, seed: int = 42) -> float:
    """Return the median of 1000 bootstrap means of F1 scores, the aggregate in the paper's tables.

    This is the aggregator of `rouge_score`, which draws from numpy's global generator. The generator is seeded as in
    the paper's code, and its state restored afterwards. The result differs from the mean only by sampling noise. Raises
    ValueError without scores.
    """
    import numpy as np
    from rouge_score.scoring import BootstrapAggregator, Score

    if not scores:
        raise ValueError("a bootstrap needs at least one score")
    aggregator = BootstrapAggregator()
    for score in scores:
        aggregator.add_scores({"rouge": Score(score, score, score)})
    before = np.random.get_state()
    try:
        np.random.seed(seed)
        return float(aggregator.aggregate()["rouge"].mid.fmeasure)
    finally:
        np.random.set_state(before)


def _f1(kind: _Kind, reference: str, text: str) -> float:
    return float(_scorer(kind).score(reference, text)[kind].fmeasure)


class _Words:
    def tokenize(self, text: str) -> Sequence[str]:
        return words(text)


@lru_cache(maxsize=1)
def _tagger() -> "Tagger":
    from fugashi import Tagger

    return Tagger("-Owakati")


@lru_cache(maxsize=2)
def _scorer(kind: _Kind) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return cast("RougeScorer", RougeScorer([kind], tokenizer=_Words()))
