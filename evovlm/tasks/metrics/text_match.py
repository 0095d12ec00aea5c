"""Answers compared with references as texts: the same text, or how many characters they share."""

import re
import unicodedata
from collections import Counter

_CLOSING = "。.、,!?"
_QUOTES = {"「": "」", "『": "』", '"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}
_BLANKS = re.compile(r"\s+")


def bare(text: str) -> str:
    """Return a text with its widths made alike (NFKC), without the quotes around it and punctuation that closes it."""
    plain = unicodedata.normalize("NFKC", text).strip()
    while True:
        shorter = plain.rstrip(_CLOSING).strip()
        if len(shorter) > 1 and _QUOTES.get(shorter[0]) == shorter[-1]:
            shorter = shorter[1:-1].strip()
        if shorter == plain:
            return plain
        plain = shorter


def exact_match(reference: str, text: str) -> float:
    """Return 1 where the answer is the reference (see `bare`), else 0. Case counts."""
    return float(bare(reference) == bare(text))


def char_f1(reference: str, text: str) -> float:
    """Return the F1 of the characters that two texts share, in [0, 1], whatever their order.

    As SQuAD 2.0's evaluation script counts words: case, punctuation and blanks aside; where either side is empty then,
    1 if both are. Japanese has no blanks between words, hence characters (as for JSQuAD, Kurihara et al. 2022).
    """
    wanted, found = _characters(reference), _characters(text)
    if not wanted or not found:
        return float(wanted == found)
    shared = (wanted & found).total()
    return 2 * shared / (wanted.total() + found.total())


def _characters(text: str) -> Counter[str]:
    plain = _BLANKS.sub("", unicodedata.normalize("NFKC", text).casefold())
    return Counter(character for character in plain if unicodedata.category(character)[0] != "P")
