"""Find the final number of a worked answer.

Two extractors: `paper` works like SakanaAI/evolutionary-model-merge, errors included (1,000 is read as 0), for results
to compare with the paper's; `robust` reads the number that a person would read, for everything else.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

_PAPER_NUMBER = re.compile(r"\d*\.?\d+")


def extract_paper(text: str) -> float | None:
    """Return the last number of a text as the paper's code reads it: no sign, no comma groups. None without digits."""
    found = _PAPER_NUMBER.findall(text)
    return float(found[-1]) if found else None


# Their compatibility forms would join them to digits: 25m² is not 25m2, and ③ is not 3.
_LEFT_ALONE = ("<super>", "<sub>", "<circle>", "<square>")
_SAME_SIGN = str.maketrans({"−": "-", "‐": "-", "–": "-", "⁄": "/", "〜": "~"})

# Models also write 1550,000 and mean one number.
_DIGITS = r"(?:[0-9]+(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_MINUS = (
    # A minus is a sign unless it follows something to subtract from: a digit, a letter, a kanji (19個-5個).
    r"(?P<minus>(?:(?<![0-9A-Za-z)\]%\u4e00-\u9fff])-|マイナス\s*)[$¥€£]?)?"
)
_ARABIC = re.compile(
    rf"{_MINUS}(?<![A-Za-z0-9])(?P<number>(?:{_DIGITS})(?:[十百千万億兆]+(?:{_DIGITS})?)*)(?:/(?P<under>[1-9][0-9]*))?"
)
_KANJI_DIGITS = "〇一二三四五六七八九"
_KANJI_RUN = r"(?P<number>[〇零一二三四五六七八九十百千万億兆]{1,30})"
_KANJI_FIRST = re.compile(rf"[\s「『(:*約]*(?P<minus>マイナス)?{_KANJI_RUN}")
# Without a marker, a kanji numeral needs a counter or must end the text: 一方 and 一歩一歩 are not answers.
_KANJI_COUNTED = re.compile(
    rf"(?P<minus>マイナス)?{_KANJI_RUN}(?=[円個人枚本匹冊台回年歳才分秒日週時つ頭羽杯度点束箱袋皿足着倍ドセポキメグ]|です|[。、.\s]|$)"
)
_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "億": 10**8, "兆": 10**12}
_ATOM = re.compile(rf"{_DIGITS}|[〇零一二三四五六七八九]+|[十百千万億兆]")

ANSWER_MARKER = re.compile(
    r"####|\\boxed\s*\{|(?:答え|答|解答|回答|正解)[」』*\s]*(?:は|が|:|=)|答え\s*(?=[0-9-])"
    r"|\banswer\W{0,4}(?:is|was|:|=)",
    re.IGNORECASE,
)
"""Markers that precede an answer: 答えは, "the answer is", ####, \\boxed{."""
_FRACTION = re.compile(r"\\[dt]?frac\{(?P<over>[0-9]{1,15})\}\{(?P<under>[0-9]{1,15})\}")
# At most the digits that a float can hold; without a bound, a page of digits would take quadratic time.
_PART = r"(?:[0-9]{1,15}|[一二三四五六七八九十百]{1,15})"
_PART_OF = re.compile(rf"(?<![0-9.,一二三四五六七八九十百])({_PART})分の({_PART})(?![0-9.,]?[0-9])")
_MIXED = re.compile(r"(?<![0-9./,=])([0-9]{1,9})(?: |と)([0-9]{1,9})/([0-9]{1,9})(?![0-9./])")
_SENTENCE_END = re.compile(r"。|\n|です|ます|\.(?![0-9])")
_ASIDE = re.compile(r"\([^()]*\)")
_JAPANESE = re.compile(r"[ぁ-んァ-ヶ一-龠]")
# Where a model has finished its answer and invents the next question.
_NEXT_QUESTION = re.compile(r"\n[ \t]*#*[ \t]*(?:問題|質問|指示|problem|question|instruction)\s{0,4}:", re.IGNORECASE)


def extract_robust(text: str) -> float | None:
    """Return the number that a text gives as its answer, or None.

    It is the number after the last marker (答えは, "the answer is", ####, \\boxed) that is followed by one, and
    after the last equals sign of that sentence; without a marker, the last number of the text. Reads full width, comma
    groups, signs, decimals, fractions, 3万5千 and kanji numerals; units are ignored.
    """
    plain = _plain(text)
    end = len(plain)
    for marker in reversed(list(ANSWER_MARKER.finditer(plain))):
        number = _stated(plain[marker.end() : end])
        if number is not None:
            return number
        end = marker.start()
    return _last(_ARABIC, plain) if _ARABIC.search(plain) else _last(_KANJI_COUNTED, plain)


EXTRACTORS: Mapping[str, Callable[[str], float | None]] = {"paper": extract_paper, "robust": extract_robust}


def _plain(text: str) -> str:
    """Normalise widths, signs and LaTeX fractions; drop further questions that the model asks itself."""
    characters = (_normalised(character) for character in text)
    plain = _FRACTION.sub(_slashed, "".join(characters).translate(_SAME_SIGN))
    plain = _PART_OF.sub(lambda found: f"{_numeral(found[2]):.0f}/{_numeral(found[1]):.0f}", plain)
    plain = _MIXED.sub(_improper, plain)
    asked_again = _NEXT_QUESTION.search(plain.lstrip())
    return plain.lstrip()[: asked_again.start()] if asked_again else plain


def _normalised(character: str) -> str:
    kind = unicodedata.decomposition(character)
    if kind.startswith(_LEFT_ALONE):
        return character
    plain = unicodedata.normalize("NFKC", character)
    over, _, under = plain.partition("⁄")
    return f"\\frac{{{over}}}{{{under}}}" if kind.startswith("<fraction>") else plain


def _slashed(found: re.Match[str]) -> str:
    # 2½ is not 21/2, and -½ keeps its sign.
    gap = " " if found.string[max(0, found.start() - 1) : found.start()].isdigit() else ""
    return f"{gap}{found['over']}/{found['under']}"


def _improper(found: re.Match[str]) -> str:
    """Write 1と1/2 as 3/2; leave anything that is not a proper fraction: 12 3/2."""
    whole, over, under = (int(found[group]) for group in (1, 2, 3))
    return f"{whole * under + over}/{under}" if 0 < over < under else found[0]


def _stated(after: str) -> float | None:
    """Return the number given after a marker."""
    after = after.lstrip(" \n:*「")
    end = _SENTENCE_END.search(after)
    sentence = after[: end.start()] if end else after
    result = sentence.rpartition("=")[2]
    for place in (_ASIDE.sub("", result), result, sentence):
        if numbers := list(_ARABIC.finditer(place)):
            # Japanese says the answer last (3人で12個), English first (12 for 3 people).
            return _value(numbers[-1] if _JAPANESE.search(place) else numbers[0])
    if found := _KANJI_FIRST.match(sentence):
        return _value(found)
    for pattern in (_ARABIC, _KANJI_COUNTED):
        if found := pattern.search(after):
            return _value(found)
    return None


def _last(pattern: re.Pattern[str], text: str) -> float | None:
    found = list(pattern.finditer(text))
    return _value(found[-1]) if found else None


def _value(found: re.Match[str]) -> float | None:
    """Return the value of a matched number, or None when a float cannot hold it."""
    under = found.groupdict().get("under")
    number = _numeral(found["number"]) / (float(under) if under else 1.0)
    return (-number if found["minus"] else number) if math.isfinite(number) else None


def _numeral(text: str) -> float:
    """Return the value of a numeral: 1,200, 3万5千, 千二百."""
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


def _atom_value(atom: str) -> float:
    if atom[0] in _KANJI_DIGITS or atom[0] == "零":
        return float("".join(str(_KANJI_DIGITS.index(digit.replace("零", "〇"))) for digit in atom))
    return float(atom.replace(",", ""))
