"""Read which option of a multiple-choice question a free answer names: by its letter, or by its text."""

import re
import string
import unicodedata
from collections.abc import Sequence

from evovlm.tasks.metrics.answers import ANSWER_HEADING, ANSWER_MARKER
from evovlm.tasks.metrics.final_part import without_denied, without_next_turn
from evovlm.tasks.metrics.latex import without_latex
from evovlm.tasks.metrics.text_match import bare

# What may follow the letter of an option: B) B. B: Bです Bを選ぶ. Not A cat, Aさん, AではなくB, and no list: A、B.
_AFTER = (
    r"(?![A-Za-z0-9'’])(?! [A-Za-z])(?![、,]\s*[A-Z](?![A-Za-z]))"
    r"(?=[)\].:、,。\s」』*}\"'>】]|です|だ|で[すあ、。]|が[正適当]|を選(?!びませ|ばな)|ではないで(?:しょ|は)|$)"
)
# A letter that begins an answer; a small one only as (b), b. or all there is.
_FIRST = re.compile(rf"[\s「『(\[*:、,\"'<【]*(?:選択肢\s*|[Oo]ption\s+)?(?P<letter>[A-Z]{_AFTER}|[a-z](?=[)\].:]|$))")
# Elsewhere the letter must be separate: ビタミンC, A型 and Bさん are words that contain a letter.
_ALONE = re.compile(
    r"(?:(?<=[\s「『(\[*:、。,.<【はがも])|(?<=選択肢)|(?<=記号)|^)"
    r"(?<!または)(?<!or )(?<!and )(?<![A-Z][、,])(?<![A-Z][、,] )"
    rf"(?P<letter>[A-Z]){_AFTER}"
)
_LONGEST_DENIED = 50
_SENTENCE_END = re.compile(r"。|\n|\.(?:\s|$)")


def read_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer names (A for the first), or None if it names none or several.

    Looks, in this order, at the text after 答えは or "the answer is", at a letter at the beginning of the answer, at
    separate letters in it, and at the texts of the options. Without `choices` every letter is an option.
    """
    plain = without_latex(without_next_turn(unicodedata.normalize("NFKC", text)))
    options = "|".join(re.escape(bare(choice)) for choice in choices if len(choice) <= _LONGEST_DENIED and bare(choice))
    plain = without_denied(plain, what=rf"(?<![A-Za-z])[A-Z](?![A-Za-z]){'|' * bool(options)}{options}")
    letters = string.ascii_uppercase[: len(choices)] if choices else string.ascii_uppercase
    end = len(plain)
    markers = [*ANSWER_MARKER.finditer(plain), *ANSWER_HEADING.finditer(plain)]
    for marker in sorted(markers, key=re.Match.start, reverse=True):
        stated = plain[marker.end() : end].strip()
        found = _SENTENCE_END.search(stated)
        sentence = stated[: found.start()] if found and found.start() > 1 else stated
        named = _first_letter(sentence, letters) or _named_by_text(sentence, choices) or _lone_letter(sentence, letters)
        if named is not None:
            return named
        end = marker.start()
    return _first_letter(plain, letters) or _lone_letter(plain, letters) or _named_by_text(plain, choices)


def _first_letter(text: str, letters: str) -> str | None:
    found = _FIRST.match(text)
    return found["letter"].upper() if found and found["letter"].upper() in letters else None


def _lone_letter(text: str, letters: str) -> str | None:
    found = {match["letter"] for match in _ALONE.finditer(text)} & set(letters)
    return found.pop() if len(found) == 1 else None


def _named_by_text(text: str, choices: Sequence[str]) -> str | None:
    plain, options = bare(text), [bare(choice) for choice in choices[: len(string.ascii_uppercase)]]
    held = [index for index, option in enumerate(options) if option and option in plain]
    held = [index for index in held if options[index] == plain] or held
    # 東京都 contains 京都: an option that is part of another named option was not named itself.
    held = [i for i in held if not any(i != j and options[i] in options[j] and options[i] != options[j] for j in held)]
    return string.ascii_uppercase[held[0]] if len(held) == 1 else None
