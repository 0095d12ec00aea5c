"""Mathematical answers, numbers or formulas, compared as numbers or as LaTeX in one spelling.

`回答: $\\boxed{\\dfrac{3}{2}}$` is 3/2 and 1.5; `x = 2\\sqrt 3` is 2\\sqrt{3}.

Formulas are compared in their spelling, as in Hendrycks et al. 2021 (MATH, math_equivalence.py), not by algebra: x+1 is
not 1+x. Leaderboards that use sympy accept a little more.
"""

import math
import re

from evovlm.tasks.metrics.answers import ANSWER_MARKER, EXTRACTORS
from evovlm.tasks.metrics.final_part import without_next_turn
from evovlm.tasks.metrics.latex import without_latex
from evovlm.tasks.metrics.references import number_of

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LONGEST = 2000
_SPELLINGS = (
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\\[,;:! ]|\\q?quad(?![A-Za-z])|~"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]{0,200})\}"), r"\1"),
    (re.compile(r"\^\s?\{?\\circ\}?|\\degree(?![A-Za-z])|°"), ""),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"\\[$%]|[$%]"), ""),
    (re.compile(r"\\leq?(?![A-Za-z])"), "≤"),
    (re.compile(r"\\geq?(?![A-Za-z])"), "≥"),
    (re.compile(r"(?<=[0-9])\{?,\}?(?=[0-9]{3}(?![0-9]))(?![^(\[]*[)\]])"), ""),
    (re.compile(r"\s+"), ""),
    (re.compile(r"\\sqrt([0-9a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\frac([0-9])([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\{([^{}]{1,50})\}([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"^(-?[0-9]{1,9})/([0-9]{1,9})$"), r"\\frac{\1}{\2}"),
    (re.compile(r"^\\frac\{-"), r"-\\frac{"),
    (re.compile(r"^[a-zA-Z](?:\([a-zA-Z]\))?=(?=[^=])|^[a-zA-Z]\\in"), ""),
    (re.compile(r"^\(([A-Za-z])\)$"), r"\1"),
    (re.compile(r"[.。]+$"), ""),
)
# Commas between coordinates and in lists: (1,000) is a pair.
_SEPARATED = re.compile(r"[,、;]")


def math_answer(text: str) -> str:
    """Return the formula or number that a text gives as its answer: in the last box, else after the last marker.

    A text without both is read by the robust extractor. Empty if nothing is found.
    """
    plain = without_next_turn(text)
    for box in reversed(list(_BOX.finditer(plain))):
        inside = _inside(plain[box.end() : box.end() + _LONGEST])
        if inside is not None and inside.strip():
            return inside
    markers = list(ANSWER_MARKER.finditer(plain))
    if markers:
        stated = plain[markers[-1].end() :].strip().split("\n")[0]
        return re.sub(r"(?:です|である|となります|になります)?[。.]?\s*$", "", stated.strip("*「」: "))
    number = EXTRACTORS["robust"](text)
    return "" if number is None else f"{number:.15g}"


def same_math(reference: str, text: str) -> float:
    """Return 1 if the answer of a text is the reference, as a number or as a formula in one spelling, else 0."""
    answer = math_answer(text)
    wanted, found = _spelled(_unboxed(reference)), _spelled(answer)
    if not found:
        return 0.0
    if wanted == found:
        return 1.0
    numbers = [_value(each) for each in (_unboxed(reference), answer)]
    return float(all(number is not None for number in numbers) and math.isclose(*numbers, rel_tol=1e-9))  # type: ignore[arg-type]


def _value(answer: str) -> float | None:
    plain = answer.strip().strip("$ ")
    # A pair or a sum in brackets is not one number.
    if _SEPARATED.search(re.sub(r"(?<=[0-9])\{?,\}?(?=[0-9]{3}(?![0-9]))", "", plain)) or "(" in plain:
        return None
    number = number_of(without_latex(plain))
    return None if number is None else float(number)


def _unboxed(reference: str) -> str:
    box = _BOX.search(reference)
    inside = None if box is None else _inside(reference[box.end() :])
    return reference if inside is None else inside


def _spelled(formula: str) -> str:
    spelled = formula[:_LONGEST]
    for pattern, spelling in _SPELLINGS:
        spelled = pattern.sub(spelling, spelled)
    return spelled


def _inside(after: str) -> str | None:
    """Return what precedes the brace that closes a box; None if it is not closed."""
    depth = 1
    for place, character in enumerate(after):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return after[:place]
    return None
