"""JDocQA's scores: what is asked decides how the answer is compared.

Yes/no, factoid and numerical questions: 1 where the answer holds the reference. Open ones: sentence BLEU over words.
"""

import unicodedata
from collections.abc import Collection

from evovlm.tasks.metrics.rouge import words

CLOSED_TAGS = frozenset({"yes_no", "factoid", "numerical"})
"""The tags of samples whose answers are compared as substrings; all others are open questions."""


def jdocqa_value(reference: str, text: str, *, tags: Collection[str]) -> float:
    """Return an answer's score in [0, 1], by the question's tag (Onami et al. 2024, as llm-jp-eval-mm computes it)."""
    if CLOSED_TAGS.isdisjoint(tags):
        return sentence_bleu(reference, text)
    wanted, found = _normalised(reference), _normalised(text)
    # Everything holds an empty reference, so it wants an empty answer.
    return float(wanted in found if wanted else not found)


def sentence_bleu(reference: str, text: str) -> float:
    """Return sacrebleu's sentence BLEU in [0, 1] (exponential smoothing, always four orders) over MeCab's words.

    The dictionary is unidic-lite, where sacrebleu's `ja-mecab` has ipadic: words are cut a little finer.
    """
    import sacrebleu

    hypothesis, wanted = " ".join(words(text)), " ".join(words(reference))
    if not hypothesis or not wanted:
        return 0.0
    score = sacrebleu.sentence_bleu(hypothesis, [wanted], tokenize="none", use_effective_order=False).score
    return min(1.0, max(0.0, score / 100))


def _normalised(text: str) -> str:
    for part in ("です", "。", "、"):
        text = text.replace(part, "")
    return "".join(unicodedata.normalize("NFKC", text).split())
