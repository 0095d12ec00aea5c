"""Find the final number of a worked answer.

Two extractors: `paper` works like SakanaAI/evolutionary-model-merge, errors included (1,000 is read as 0), for results
to compare with the paper's; `robust` reads the number that a person would read, for everything else.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping

from evovlm.tasks.metrics.final_part import without_denied, without_next_turn
from evovlm.tasks.metrics.latex import without_latex
from evovlm.tasks.metrics.numerals import DIGITS, ENGLISH, ENGLISH_PART, english_value, numeral_value, written_out

_PAPER_NUMBER = re.compile(r"\d*\.?\d+")


def extract_paper(text: str) -> float | None:
    """Return the last number of a text as the paper's code reads it: no sign, no comma groups. None without digits."""
    found = _PAPER_NUMBER.findall(text)
    return float(found[-1]) if found else None


# Their compatibility forms would join them to digits: 25m² is not 25m2, and ③ is not 3.
_LEFT_ALONE = ("<super>", "<sub>", "<circle>", "<square>")
# In full width, braces are brackets of a remark and not LaTeX's.
_BRACKETS = str.maketrans("｛｝〈〉", "（）（）")
_SAME_SIGN = str.maketrans({"−": "-", "‐": "-", "–": "-", "⁄": "/", "〜": "~"})

_MINUS = (
    # A minus is a sign unless it follows something to subtract from: a digit, a letter, a kanji (19個-5個).
    r"(?P<minus>(?:(?<![0-9A-Za-z)\]%\u4e00-\u9fff])-|マイナス\s*|[▲△]\s?|\b(?:minus|negative)\s+)[$¥€£]?)?"
)
_UNDER = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[1-9][0-9]*(?:\.[0-9]+)?"
_ARABIC = re.compile(
    rf"{_MINUS}(?<![A-Za-z0-9])(?P<number>(?:{DIGITS})(?:[十百千万億兆]+(?:{DIGITS})?)*)(?:/(?P<under>{_UNDER}))?",
    re.IGNORECASE,
)
_KANJI_RUN = r"(?P<number>[〇零一二三四五六七八九十百千万億兆]{1,30})"
_ENGLISH_FIRST = re.compile(
    rf"[\s*:\"'(]*(?:(?:about|exactly|only|just|simply|approximately)\s+)?(?P<minus>(?:minus|negative)\s+)?"
    rf"(?P<words>{ENGLISH})(?:[\s-]+(?:{ENGLISH_PART})\b)?(?!\s+(?:of|that|which|where|who|we|way)\b)",
    re.IGNORECASE,
)
_ENGLISH_WORDS = re.compile(rf"(?P<minus>\b(?:minus|negative)\s+)?(?P<words>{ENGLISH})", re.IGNORECASE)
_KANJI_FIRST = re.compile(rf"[\s「『(:*約]*(?P<minus>マイナス|負の|-)?{_KANJI_RUN}")
# Without a marker, a kanji numeral needs a counter or must end the text: 一方 and 一歩一歩 are not answers. So need 一
# and 十 a common one (一部, 十分); after the other digits more kanji count things than make up words (三角, 四角).
_COMMON_COUNTERS = "円個人枚本匹冊台回年歳才分秒日週時つ頭羽杯度点束箱袋皿足着倍ドセポキメグ"
_COUNTERS = (
    "通機隻軒棟階列組膳玉粒滴畳坪件名票両車章節行字語曲錠缶瓶株輪房串切片巻話幕割銭泊食門問試勝敗週戸基丁尾皮貫里尺寸升合品"
    "種社校班曜番号位丸口席ヶカか箇周往拍針枠鉢棚柱題鍋槽艘艇句首篇編帖巡桁盛"
)
_KANJI_COUNTED = re.compile(
    rf"(?P<minus>マイナス|負の)?{_KANJI_RUN}(?:"
    rf"(?=[{_COMMON_COUNTERS}ァ-ヶ%]|です|でした|[。、.\s」』*]|$)"
    rf"|(?<=[二三四五六七八九百千万億兆〇零])(?=[{_COUNTERS}])"
    # Two or more numerals are a number before anything but these words: 八百屋, 五十嵐, 五十音.
    r"|(?<=[〇零一二三四五六七八九十百千万億兆]{2})(?<!一一)(?![屋長嵐音雀〇零一二三四五六七八九十百千万億兆]))"
)

ANSWER_MARKER = re.compile(
    # A Markdown heading may have four # too, and then names a step.
    r"####(?!\#|\s*(?:step|part|case|phase|ステップ|手順|段階|その[0-9]|第[0-9]|[0-9]{1,2}[.)]\s*[^\W\d]))"
    r"|\\(?:boxed|fbox|framebox)\s*(?:\{|(?=[0-9]))|(?:答え|答|解答|回答|正解)[」』*\s]*(?:は|が|:|=|→|⇒)"
    r"|答え\s*(?=[0-9$¥▲-])|\banswer\W{0,4}(?:is|was|:|=)|<answer>",
    re.IGNORECASE,
)
"""Markers that precede an answer: 答えは, "the answer is", ####, \\boxed{."""
_ANSWER_NAME = r"(?:最終(?:的な)?)?(?:答え?|解答|回答|正解|結論|(?:final\s)?answer)"
_BEFORE_HEADING = r"(?:^|\n)[ \t]*(?:#{1,6}[ \t]*|[■◆●▼][ \t]*)?\**"
ANSWER_HEADING = re.compile(
    rf"(?:{_BEFORE_HEADING}[【\[〔<《]\s*{_ANSWER_NAME}\s*[】\]〕>》]\**[ \t]*:?"
    rf"|{_BEFORE_HEADING}{_ANSWER_NAME}\**[ \t]*:?\**[ \t]*(?=\n))",
    re.IGNORECASE,
)
"""A heading of the answer: 【答え】, or 答え on a line of its own."""
_EXPLANATION = re.compile(
    rf"{_BEFORE_HEADING}(?:[【\[〔<《]|(?=(?:解説|説明|計算|検算|理由|途中式|式|補足|考え方|explanation|reason|solution|working)"
    r"\**[ \t]*(?::|\n))|(?<=[#■◆●▼])[ \t]*|(?<=[#■◆●▼] ))"
    r"|(?<=[。!])[ \t]*[【\[〔](?:解説|説明|補足|検算|理由|備考|注)[】\]〕]",
    re.IGNORECASE,
)
# At most the digits that a float can hold; without a bound, a page of digits would take quadratic time.
_PART = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,15}|[一二三四五六七八九十百]{1,15})"
_PART_OF = re.compile(rf"(?<![0-9.,一二三四五六七八九十百])({_PART})\s?分\s?の\s?({_PART})(?![0-9.,]?[0-9])")
_MIXED = re.compile(r"(?<![0-9./,=])([0-9]{1,9})(?: |と| and )([0-9]{1,9})/([0-9]{1,9})(?!\.?[0-9]|/)")
_SPACED_SLASH = re.compile(r"(?<![0-9./,] )(?<![0-9./,])([0-9]{1,15}) / ([1-9][0-9]{0,14})(?![0-9.,]| ?/)")
_SPACED_GROUPS = re.compile(r"(?<![0-9.,] )(?<![0-9.,/])[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9.,/]|\s[0-9])")
_SENTENCE_END = re.compile(r"。|\n|です|ます|\.(?![0-9])|</answer>")
_JAPANESE = re.compile(r"[ぁ-んァ-ヶ一-龠]")


def extract_robust(text: str) -> float | None:
    """Return the number that a text gives as its answer, or None.

    It is the number after the last marker (答えは, "the answer is", ####, \\boxed, 【答え】) that is followed by one,
    and after the last equals sign of that sentence; without a marker, the last number of the text. Reads full width,
    comma groups, signs, decimals, fractions, LaTeX, 3万5千, kanji numerals and English words; units are ignored, and so
    are remarks in brackets, what the text denies, and a next question that its model invents.
    """
    plain = _plain(text)
    for read in (_without_remarks(plain), plain):
        number = _marked(read)
        if number is not None:
            return number
    return None


EXTRACTORS: Mapping[str, Callable[[str], float | None]] = {"paper": extract_paper, "robust": extract_robust}


def _plain(text: str) -> str:
    """Normalise widths, signs, LaTeX and fractions; drop further questions that the model asks itself."""
    plain = "".join(map(_normalised, text.translate(_BRACKETS))).translate(_SAME_SIGN)
    plain = written_out(without_latex(without_next_turn(plain)))
    plain = _PART_OF.sub(lambda found: f"{numeral_value(found[2]):.0f}/{numeral_value(found[1]):.0f}", plain)
    plain = _SPACED_SLASH.sub(r"\1/\2", _SPACED_GROUPS.sub(lambda found: found[0].replace(" ", ","), plain))
    plain = _MIXED.sub(_improper, plain)
    plain = re.sub(r"(?<![0-9])([0-9]{1,3})、000(?![0-9])", r"\1,000", plain.replace("ゼロ", "0"))
    plain = re.sub(r"(?<=[{=:])\s?-\s(?=[0-9$¥])", "-", plain)
    return without_denied(plain)


def _normalised(character: str) -> str:
    kind = unicodedata.decomposition(character)
    if kind.startswith(_LEFT_ALONE):
        return character
    plain = unicodedata.normalize("NFKC", character)
    over, _, under = plain.partition("⁄")
    return f"\\frac{{{over}}}{{{under}}}" if kind.startswith("<fraction>") else plain


def _improper(found: re.Match[str]) -> str:
    """Write 1と1/2 as 3/2; leave anything that is not a proper fraction: 12 3/2."""
    whole, over, under = (int(found[group]) for group in (1, 2, 3))
    return f"{whole * under + over}/{under}" if 0 < over < under else found[0]


_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|〔[^〔〕]*〕")
_UNCLOSED = re.compile(r"[(\[〔][^()\[\]〔〕\n]*$")
_ENDS_IN_NUMBER = re.compile(
    r"[0-9一二三四五六七八九十百千万](?:[ァ-ヶー]{1,8}|(?:[^\W\d_]|[%°*」』$}/]){0,3})(?:です)?\s*$"
)
_ENDS_IN_TERM = re.compile(r"[+*/×÷x-]\s?[$¥]?[0-9][0-9,.]{0,15}[^\W\d_]{0,4}\s*$")
_HAS_NUMBER = re.compile(r"[0-9一二三四五六七八九十百千]")
_LONE_NUMBER = re.compile(r"\s*[$¥]?-?[0-9][0-9,.]{0,15}(?:/[0-9]{1,9})?[^\W\d]{0,4}\s*")
_ASKS_FOR_MORE = re.compile(r"(?:[はがもを=:、,+*/×÷→-]|答え?|answer|is|=\s*\$)\s*$", re.IGNORECASE)
_COUNTED = re.compile(rf"\s?[{_COMMON_COUNTERS}{_COUNTERS}ァ-ヶ]")
_REACH = 200


def _without_remarks(text: str) -> str:
    """Return the text without remarks in brackets behind a number: 36個(=12×3), 18 (5 apples and 13 oranges)."""
    for _ in range(3):
        shorter = _BRACKETED.sub(_kept, text)
        if shorter == text:
            break
        text = shorter
    return _UNCLOSED.sub(_kept, text)


def _kept(found: re.Match[str]) -> str:
    """Return what remains of a bracket: nothing of a remark, and all of one that gives the number itself."""
    text, content = found.string, found[0].strip("()[]〔〕 ")
    # A bracket behind a full stop belongs to the sentence before.
    before = re.split(r"[。\n]", text[max(0, found.start() - _REACH) : found.start()].rstrip(" 。"))[-1]
    if not _HAS_NUMBER.search(content):
        # [解説] is a heading.
        return "" if found[0].startswith("(") else found[0]
    if not _HAS_NUMBER.search(before) or _ASKS_FOR_MORE.search(before):
        return found[0]
    if _ENDS_IN_TERM.search(before) and (content.startswith("=") or _LONE_NUMBER.fullmatch(content)):
        return found[0]
    behind_number = _ENDS_IN_NUMBER.search(before) is not None
    gives_number = _LONE_NUMBER.fullmatch(content) or _COUNTED.match(text, found.end())
    return found[0] if gives_number and not behind_number else ""


def _marked(plain: str) -> float | None:
    """Return the number after the last marker that is followed by one, or else the last number."""
    markers = [*ANSWER_MARKER.finditer(plain), *ANSWER_HEADING.finditer(plain)]
    end = len(plain)
    for marker in sorted(markers, key=re.Match.start, reverse=True):
        is_heading = marker.re is ANSWER_HEADING
        number = _headed(plain[marker.end() : end]) if is_heading else _stated(plain[marker.end() : end], marker[0])
        if number is not None:
            return number
        end = marker.start()
    return _last_number(_before_explanation(plain))


def _headed(section: str) -> float | None:
    """Return the number of the section under a heading of the answer, up to the next heading."""
    section = section.lstrip()
    following = _EXPLANATION.search(section)
    return _last_number(section[: following.start()] if following else section)


def _before_explanation(plain: str) -> str:
    """Return what precedes an explanation if it is one number, and otherwise the whole text."""
    found = _EXPLANATION.search(plain)
    before = plain[: found.start()].strip() if found else ""
    is_answer = len(before) <= 40 and "\n" not in before and len(list(_ARABIC.finditer(before))) == 1
    return before if is_answer and not re.search(r"[=+×÷]|から|まず", before) else plain


def _last_number(text: str) -> float | None:
    if _ARABIC.search(text):
        return _last(_ARABIC, text)
    number = _last(_KANJI_COUNTED, text)
    if number is not None:
        return number
    words = [found for found in _ENGLISH_WORDS.finditer(text) if found["words"].lower() != "one"]
    return _words_value(words[-1]) if words else None


def _stated(after: str, marker: str) -> float | None:
    """Return the number given after a marker."""
    if marker.endswith("{"):
        after = _inside_braces(after)
    after = after.lstrip(" \n:*「")
    end = _SENTENCE_END.search(after)
    sentence = after[: end.start()] if end else after
    for place in (sentence.rpartition("=")[2], sentence):
        if numbers := list(_ARABIC.finditer(place)):
            # Japanese says the answer last (3人で12個), English first (12 for 3 people).
            return _value(numbers[-1] if _JAPANESE.search(place) else numbers[0])
    if found := _KANJI_FIRST.match(sentence):
        return _value(found)
    if found := _ENGLISH_FIRST.match(sentence):
        return _words_value(found)
    for pattern in (_ARABIC, _KANJI_COUNTED):
        if found := pattern.search(after):
            return _value(found)
    return None


def _inside_braces(after: str) -> str:
    """Return what precedes the brace that closes a box; everything if there is not one."""
    depth = 1
    for place, character in enumerate(after[:_REACH]):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return after[:place]
    return after


def _last(pattern: re.Pattern[str], text: str) -> float | None:
    found = list(pattern.finditer(text))
    return _value(found[-1]) if found else None


def _words_value(found: re.Match[str]) -> float:
    parts = [name for name, part in found.groupdict().items() if part and name.startswith("part_")]
    value = english_value(found["words"]) / (int(parts[0].removeprefix("part_")) if parts else 1)
    return -value if found["minus"] else value


def _value(found: re.Match[str]) -> float | None:
    """Return the value of a matched number, or None when a float cannot hold it."""
    under = found.groupdict().get("under")
    number = numeral_value(found["number"]) / (float(under.replace(",", "")) if under else 1.0)
    return (-number if found["minus"] else number) if math.isfinite(number) else None
