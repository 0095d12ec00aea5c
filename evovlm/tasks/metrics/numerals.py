"""Values of numerals: 1,200, 3万5千, 千二百, twenty-five."""

import re

DIGITS = r"(?:[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
"""A pattern of a number in digits; models also write 1550,000 and mean one number."""

_KANJI_DIGITS = "〇一二三四五六七八九"
_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "億": 10**8, "兆": 10**12}
_ATOM = re.compile(rf"{DIGITS}|[〇零一二三四五六七八九]+|[十百千万億兆]")

_TO_TWELVE = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TO_NINETEEN = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: float(value) for value, word in enumerate(_TO_TWELVE + _TO_NINETEEN)} | {
    word: 10.0 * (index + 2) for index, word in enumerate(_TENS)
}
_LARGE = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_WORD = "|".join(sorted([*_SMALL, *_LARGE, "hundred"], key=len, reverse=True))
_PARTS = (
    "half|halves",
    "thirds?",
    "quarters?|fourths?",
    "fifths?",
    "sixths?",
    "sevenths?",
    "eighths?",
    "ninths?",
    "tenths?",
)
ENGLISH_PART = "|".join(f"(?P<part_{under}>{names})" for under, names in enumerate(_PARTS, start=2))
"""A pattern of what a number is divided by: halves, thirds; a match has the group `part_2`, `part_3` and so on."""
ENGLISH = rf"\b(?:{_WORD})\b(?:(?:\s+and\s+|[\s-]+)(?:{_WORD})\b){{0,12}}"
"""A pattern of a number in English words."""


_GROUPED = re.compile(r"[-+]?[0-9]+(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]*)?")


def ungrouped(text: str) -> str:
    """Return a number's text without the commas of its groups (1,200); any other text as it is (3,5)."""
    return text.replace(",", "") if _GROUPED.fullmatch(text) else text


_EXPONENT = re.compile(r"(?<![A-Za-z0-9.,])([0-9]{1,9}(?:\.[0-9]{1,9})?e[-+]?[0-9]{1,2})(?![A-Za-z0-9])", re.IGNORECASE)
_APOSTROPHE = re.compile(r"(?<=[0-9])['’](?=[0-9]{3}(?![0-9]))")


def written_out(text: str) -> str:
    """Return the text with 1e3 as 1000 and 1'000 as 1,000.

    16 million stays 16: word problems and their answers count in millions (GSM8K).
    """
    return _APOSTROPHE.sub(",", _EXPONENT.sub(_without_exponent, text))


def _without_exponent(found: re.Match[str]) -> str:
    shown = f"{float(found[1]):.15g}"
    return found[0] if "e" in shown else shown


def numeral_value(text: str) -> float:
    """Return the value of a numeral in digits, kanji or both."""
    total = section = 0.0
    current: float | None = None
    for atom in _ATOM.findall(text):
        unit = _UNITS.get(atom)
        if unit is None:
            current = _atom_value(atom)
        elif unit < _UNITS["万"]:
            section += (1.0 if current is None else current) * unit
            current = None
        else:
            total += (section + (current or 0.0) or 1.0) * unit
            section, current = 0.0, None
    return total + section + (current or 0.0)


def english_value(text: str) -> float:
    """Return the value of a number in English words, as ENGLISH matches it."""
    total = section = 0.0
    for word in re.findall(_WORD, text.lower()):
        if word == "hundred":
            section = (section or 1.0) * 100
        elif word in _LARGE:
            total += (section or 1.0) * _LARGE[word]
            section = 0.0
        else:
            section += _SMALL[word]
    return total + section


def _atom_value(atom: str) -> float:
    if atom[0] in _KANJI_DIGITS or atom[0] == "零":
        return float("".join(str(_KANJI_DIGITS.index(digit.replace("零", "〇"))) for digit in atom))
    return float(atom.replace(",", ""))
