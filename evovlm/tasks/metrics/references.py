"""Reads reference answers as numbers, as models' answers are read: with units, in worked solutions."""

import math
import re
import unicodedata

from evovlm.tasks.metrics.answers import EXTRACTORS
from evovlm.tasks.metrics.numerals import ungrouped

# A comma that no three digits follow may separate two numbers, or be a decimal comma.
_DIGITS = r"[0-9]+(?:,[0-9]{3})*(?!,?[0-9])(?:\.[0-9]+)?|\.[0-9]+"
_FRACTION = r"\\[dt]?frac\s*\{?[0-9]+\}?\s*\{?[0-9]+\}?"
_KANJI = "〇零一二三四五六七八九十百千万億兆"
_NUMBER = (
    rf"[-+−‐–▲△]?\s*[$¥€£]?\s*(?:(?:{_DIGITS})(?:[十百千万億兆](?:{_DIGITS})?)*(?:\s+[0-9]+)?(?:\s*[/⁄]\s*[0-9]+)?"
    rf"|{_FRACTION}|[{_KANJI}]+)"
)
# A number and what people write around it: 約12個です, 答え: 3/4, $\\frac{1}{2}$, 50 %.
_ALONE = re.compile(
    rf"(?:答え?(?:は|:)?|およそ|約|全部で|合計)*\s*\$?\s*(?:マイナス)?{_NUMBER}\s*\$?"
    r"(?:[^\W\d_]|[%°/・ ]){0,12}?(?:です|でした|になります|となる)?[。.]?"
)
_MARKED = ("####", "\\boxed")


def number_of(answer: str) -> str | None:
    """Return the number that an answer is, as text; None for any other answer.

    It may have commas, a sign, a unit or a currency, be in full width or a fraction, or end a worked solution in
    GSM8K's form (`#### 7`).
    """
    plain = unicodedata.normalize("NFKC", answer).strip()
    written = ungrouped(plain)
    if _is_finite(written):
        return written
    # A marker says where the number is; otherwise it must be all that there is.
    if any(mark in plain for mark in _MARKED) or _ALONE.fullmatch(plain):
        found = EXTRACTORS["robust"](answer)
        return None if found is None else f"{found:.15g}"
    return None


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
