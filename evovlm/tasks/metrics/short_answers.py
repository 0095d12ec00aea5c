"""Short answers found in a longer text, as the Swallow leaderboard reads those to JEMHopQA.

`回答: $\\boxed{東京都}$`, 答えは東京都です。, 東京都
"""

import re
import unicodedata
from collections import Counter

_BOXED = re.compile(r"\\boxed\{(\\text\{)?(?P<answer>.{1,2000}?)(?(1)\})\}", re.DOTALL)
_END = r"(?=(?:です|だ|である|でしょう|だろう)?(?:。|．|$|\s))"
_STATED = re.compile(
    r"(?:(?:回答|正解|答え|解答)は(?:[:：]|→|->|=|＝|[．.、，])?\s*"
    r"|[【「\[(]?\s*(?:回答|正解|答え|解答|解|答)[】」\])]?\s*(?:[:：]|→|->|=|＝|[．.])\s*)"
    rf"(?P<answer>.{{1,2000}}?){_END}",
    re.DOTALL,
)
_FIRST = re.compile(rf"(?:\A|\n+)(?P<answer>.{{1,2000}}?){_END}", re.DOTALL)
_OPENING, _CLOSING = "(（{<「『〈《【〖〔❨❪❴❬❰⦅⦇⟦⟨“‘«‹„‚‟‛〝", ")）}>」』〉》】〗〕❩❫❵❭❱⦆⦈⟧⟩”’»›‟‛‟‛〞"
_AROUND = (
    *((mark, mark) for mark in ("```", "**", "__", "``")),
    *zip(_OPENING, _CLOSING, strict=True),
    *((mark, mark) for mark in "\"'`＂＇*"),
)
_YES_AND_NO = {
    **dict.fromkeys(("はい", "肯定", "肯", "◯", "TRUE", "OK", "イエス"), "YES"),
    **dict.fromkeys(("いいえ", "否", "×", "否定", "ちがう", "違う", "FALSE", "NG"), "NO"),
}


def short_answer(text: str) -> str:
    """Return the answer in a text: in the first box, after the last 答えは, else the first line's beginning.

    As JapaneseOpenQAExtractor in swallow-evaluation-instruct (metrics_sample_openqa_japanese.py, 3520211): without
    enclosing brackets, in NFKC, はい as YES.
    """
    box = _BOXED.search(text)
    stated = [found["answer"] for found in _STATED.finditer(text)] if box is None else [box["answer"]]
    first = _FIRST.search(text)
    answer = (stated[-1] if stated else first["answer"] if first else text).strip()
    answer = unicodedata.normalize("NFKC", _bare(answer))
    return _YES_AND_NO.get(answer, answer)


def quasi_char_f1(reference: str, text: str) -> float:
    """Return the F1 of the characters that the short answer of a text shares with the reference, in [0, 1]."""
    wanted, found = Counter(reference), Counter(short_answer(text))
    if not wanted or not found:
        return float(wanted == found)
    shared = (wanted & found).total()
    return 2 * shared / (wanted.total() + found.total())


def _bare(text: str) -> str:
    if len(text) <= 2:
        return text
    for opening, closing in _AROUND:
        if text.startswith(opening) and text.endswith(closing):
            return text[len(opening) : -len(closing)]
    return text
