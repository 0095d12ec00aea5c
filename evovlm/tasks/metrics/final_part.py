"""Find the part of a text that is its answer: after the thought, before a next turn that the model invents."""

import re
from dataclasses import dataclass
from functools import lru_cache

NOT_FINISHED = "reasoning not finished"
"""Why an answer whose thought never ends is not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's text: its `thought` (empty without one), and the `final` part, None if the thought never ends."""

    thought: str
    final: str | None


_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reason|seed:think)"
_OPEN = re.compile(rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>", re.IGNORECASE)
_OPEN_AGAIN = re.compile(rf"(?:^|\n)[ \t]*(?:{_OPEN.pattern})", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>", re.IGNORECASE)
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>[a-z]+)[^<\n]{0,40}<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# Harmony without its special tokens, as decoders that skip them write it.
_BARE_CHANNELS = re.compile(r"analysis(?P<thought>[\s\S]*?)(?:assistant)?(?:commentary[\s\S]*?)?assistantfinal")
# What some models put around the answer that follows the thought.
_SOLUTION = re.compile(r"<\|begin_of_solution\|>|<\|end_of_solution\|>|<\|(?:START|END)_RESPONSE\|>")


def split_thought(text: str) -> Parts:
    """Return a text's thought and its final part.

    A thought is in <think>...</think> or similar tags, before a closing tag alone (the prompt opened it), or in the
    channels of the harmony format.
    """
    if channels := list(_CHANNEL.finditer(text)):
        return _of_channels(text, channels)
    if bare := _BARE_CHANNELS.match(text.lstrip()):
        return Parts(thought=bare["thought"].strip(), final=text.lstrip()[bare.end() :])
    last = _last(_CLOSE, text)
    rest = text[last.end() :] if last else text
    thought = _OPEN.sub("", text[: last.start()], count=1).strip() if last else ""
    if opened := _OPEN_AGAIN.search(rest):
        # What follows a tag that is not closed is thought; an answer before it counts.
        thought = f"{thought}\n{rest[opened.end() :]}".strip()
        rest = rest[: opened.start()]
        if not rest.strip():
            return Parts(thought=thought, final=None)
    return Parts(thought=thought, final=_SOLUTION.sub("", rest) if last else rest)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None


def _of_channels(text: str, channels: list[re.Match[str]]) -> Parts:
    bodies: dict[str, list[str]] = {}
    for number, channel in enumerate(channels):
        until = channels[number + 1].start() if number + 1 < len(channels) else len(text)
        end = _CHANNEL_END.search(text, channel.end(), until)
        bodies.setdefault(channel["name"], []).append(text[channel.end() : end.start() if end else until])
    final = bodies.pop("final", None)
    thought = "\n".join(body for parts in bodies.values() for body in parts)
    return Parts(thought=thought.strip(), final=None if final is None else final[-1])


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
    r"|(?:user|human|instruction|input|system|student)\**[ \t]*[:：]"
    r"|(?:next[ \t]+)?(?:question|problem|exercise)[ \t]*#?[0-9]{0,3}\**[ \t]*(?:[:：]|\.(?=\s))"
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
