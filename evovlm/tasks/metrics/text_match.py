"""Answers compared with references as texts: exact match, shared characters, and the scores of JDocQA."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection

from evovlm.tasks.metrics.rouge import words

_CLOSING = "。.、,!?"
_QUOTES = {"「": "」", "『": "』", '"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}
_BLANKS = re.compile(r"\s+")
CLOSED_TAGS = frozenset({"yes_no", "factoid", "numerical"})
"""Tags of JDocQA samples whose answers are compared as substrings; all others are open questions."""


def bare(text: str) -> str:
    """Return a text with widths normalised (NFKC), without enclosing quotes and closing punctuation."""
    plain = unicodedata.normalize("NFKC", text).strip()
    while True:
        shorter = plain.rstrip(_CLOSING).strip()
        if len(shorter) > 1 and _QUOTES.get(shorter[0]) == shorter[-1]:
            shorter = shorter[1:-1].strip()
        if shorter == plain:
            return plain
        plain = shorter


def exact_match(reference: str, text: str) -> float:
    """Return 1 if the answer equals the reference (see `bare`), else 0. Case-sensitive."""
    return float(bare(reference) == bare(text))


def char_f1(reference: str, text: str) -> float:
    """Return the F1 of the characters that two texts share, in [0, 1], whatever their order.

    Like the words in SQuAD 2.0's evaluation script, ignoring case, punctuation and blanks; if either side is empty
    then, 1 if both are. Japanese has no blanks between words, hence characters (as in JSQuAD, Kurihara et al. 2022).
    """
    wanted, found = _characters(reference), _characters(text)
    if not wanted or not found:
        return float(wanted == found)
    shared = (wanted & found).total()
    return 2 * shared / (wanted.total() + found.total())


def _characters(text: str) -> Counter[str]:
    plain = _BLANKS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return Counter(character for character in plain if unicodedata.category(character)[0] != "P")


def contains(reference: str, text: str) -> float:
    """Return 1 if the reference occurs in the answer as it is, else 0 (JIC-VQA, as computed by llm-jp-eval-mm)."""
    return float(reference in text)


def ocr_f1(reference: str, text: str) -> float:
    """Return the F1 of the characters of two transcriptions, in [0, 1], whatever their order.

    Blanks, case, ### and *** are ignored (CC-OCR, Yang et al. 2024, as computed by llm-jp-eval-mm).
    """
    wanted, found = (
        Counter(_BLANKS.sub("", each.replace("###", "").replace("***", "")).lower()) for each in (reference, text)
    )
    shared = (wanted & found).total()
    return 2 * shared / (wanted.total() + found.total()) if shared else 0.0


def jdocqa_value(reference: str, text: str, *, tags: Collection[str]) -> float:
    """Return an answer's JDocQA score in [0, 1] (Onami et al. 2024, as computed by llm-jp-eval-mm).

    Yes/no, factoid and numerical questions: 1 if the answer contains the reference. Open questions: sentence BLEU over
    words.
    """
    if CLOSED_TAGS.isdisjoint(tags):
        return sentence_bleu(reference, text)
    wanted, found = _normalised(reference), _normalised(text)
    # Every text contains an empty reference, so an empty reference needs an empty answer.
    return float(wanted in found if wanted else not found)


def sentence_bleu(reference: str, text: str) -> float:
    """Return sacrebleu's sentence BLEU in [0, 1] (exponential smoothing, always four orders) over MeCab's words.

    The dictionary is unidic-lite, not ipadic as in sacrebleu's `ja-mecab`: words are split slightly finer.
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
