"""Find the part of a text that is its answer: before a next turn that the model invents, without what it denies."""

import re
from functools import lru_cache

_HEADER = r"(?:[ \t]*(?:#{1,6}|\*\*|[■◆●▼])?[ \t]*)"
_KIND = r"(?:次の|別の|新しい|追加の?|練習|応用|類題?の?|例)?"
# Where a model has finished its answer and invents what somebody asks next. Group `sure`: even before an answer.
_NEXT_TURN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|end_of_text|start_header_id|user|end|return|eom_id|assistant)\|>|</s>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|<<SYS>>"
    r"|(?P<sure>\n[ \t]*#*[ \t]*(?:問題|質問|指示|problem|question|instruction)\s{0,4}[:：])"
    rf"|(?:\n|(?<=。)){_HEADER}(?:"
    rf"{_KIND}(?:問題文?|質問|問い?|設問|例題|類題)[ \t]*[0-9０-９]{{0,3}}\**[ \t]*(?:[:：]|[.．](?=\s))"
    r"|(?:次|別|新しい|他)の(?:問題|質問|問い|設問|例題)[ \t]*(?=$|\n|に|です|へ|。|「)|もう[1１一]問"
    rf"|[【\[［<〔]{_KIND}(?:問題文?|質問|設問|例題|類題|指示|入力|ユーザー|user|question|problem"
    rf"|instruction|input)[ \t]*[0-9０-９]{{0,3}}[】\]］>〕]"
    r"|(?:指示|入力|ユーザー?|人間|利用者|質問者|生徒|システム)\**[ \t]*[:：]"
    r"|(?:user|human|instruction|input|system|student)\**[ \t]*[:：]|(?:user|human|ユーザー)[ \t]*\n"
    rf"|{_KIND}(?:問題|質問|設問|例題)[ \t]*[0-9０-９]{{1,3}}[ \t]*\n"
    r"|(?:next[ \t]+)?(?:question|problem|exercise)[ \t]*#?[0-9]{0,3}\**[ \t]*(?:[:：]|\.(?=\s))"
    r"|example[ \t]*#?[0-9]{1,3}\**[ \t]*[:：.]|例[ \t]*[0-9０-９]{1,3}\**[ \t]*[:：]"
    r"|(?:here(?:'s|[ ]is)|let'?s[ ](?:try|do|solve))"
    r"[ ](?:another|a[ ]new|the[ ]next)[ ](?:one|problem|question|example)\b"
    r"|next[ \t]+(?:question|problem)\b|Q[ \t]*[0-9０-９]{0,3}\**[ \t]*(?:[:：.．](?=\s|[^0-9]))"
    r"|###[ \t]*(?:指示|入力|ユーザー?|user|human|instruction|input|question)[ \t]*(?:\n|$))",
    re.IGNORECASE,
)
_NUMERAL = re.compile(
    r"[0-9０-９〇零一二三四五六七八九十]|ゼロ|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b|[A-ZＡ-Ｚ](?![A-Za-z])",
    re.IGNORECASE,
)


def without_next_turn(text: str) -> str:
    """Return the text up to the next turn that its model invents: 次の問題, User:, Q:, ### 入力, <|im_start|>.

    A heading that may also begin a solution counts only after a number or an option.
    """
    text = text.strip()
    answered = _NUMERAL.search(text)
    for found in _NEXT_TURN.finditer(text):
        is_token = text[found.start()] in "<["
        if text[: found.start()].strip() and (
            found["sure"] or is_token or (answered is not None and answered.start() < found.start())
        ):
            return text[: found.start()]
    return text


_NUMBER = r"[-▲]?[$¥€£]?(?<![0-9])[0-9]{1,15}(?:[,.][0-9]{1,15}){0,5}(?:/[0-9]{1,9})?"
_REACH = 60
_DENIAL = re.compile(
    # 5ではないでしょうか means 5; 5でも7でもなく denies both.
    r"(?:では|じゃ|でも|で)(?:なく(?!な)(?:て|、)?|あり?ません(?!か)|ございません|ない(?!で(?:しょ|は)|か|だろ|と))"
    r"|でも(?=[^\n。]{1,10}でもな)"
)


def without_denied(text: str, *, what: str = _NUMBER) -> str:
    """Return the text without what it denies of the pattern `what` (numbers): 5個ではなく, "not 5 but".

    A text that says nothing else stays as it is.
    """
    before, english = _denied(what)
    kept, start = "", 0
    for denial in _DENIAL.finditer(text):
        denied = before.search(text, max(start, denial.start() - _REACH), denial.start())
        if denied is not None:
            kept += text[start : denied.start()]
            start = denial.end()
    kept = english.sub("", kept + text[start:])
    return kept if kept != text and re.search(what, kept) else text


@lru_cache(maxsize=256)
def _denied(what: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what a Japanese denial denies, which is the end of the text before it, and an English denial."""
    one = rf"(?:{what})[)」』]?"
    return (
        re.compile(rf"(?:{one}(?:、\s?|,\s)[(「『]?){{0,5}}{one}[^\W\d_A-Z]{{0,6}}$"),
        re.compile(
            rf"(?i:\bnot)\s{{1,3}}\(?{one}[^\n.。,;]{{0,20}},?\s?(?i:but)\b"
            rf"|[,(]?\s{{0,3}}(?i:(?:\bnot|rather\sthan|instead\sof))\s{{1,3}}\(?{one}(?![0-9A-Za-z])"
        ),
    )
