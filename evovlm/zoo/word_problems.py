"""Draw the embedded word problems: one plan of numbers, worded in Japanese and in English, with worked solutions.

One problem, as in the task files:

    question_ja  花子はりんごを12個持っています。7個買って、5個あげました。何個ありますか。
    solution_ja  12+7=19個。次に19-5=14個。答えは14個です。
    question_en  Hanako has 12 apples. Hanako buys 7 and gives away 5. How many apples are there?
    solution_en  12+7=19. Then 19-5=14. The answer is 14.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from evovlm.zoo.word_problem_templates import DISTRACTORS, ITEMS, KINDS, NAMES, Item, Kind

HELD_OUT_TEMPLATES = 1
"""Number of Japanese templates of each kind, counted from the last, that only the report split uses."""

LARGEST = 120
"""No number of a problem or its solution is larger."""

_KANJI_DIGITS = "〇一二三四五六七八九"
_ORDER_JA = ("", "次に", "最後に")
_ORDER_EN = ("", "Then ", "Finally ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem in both languages. `plan` identifies the instance in any wording: kind, thing and numbers."""

    kind: str
    plan: str
    number: int
    unit: str
    item: Item
    numbers: tuple[int, ...]
    question_ja: str
    question_en: str
    solution_ja: str
    solution_en: str

    @property
    def steps(self) -> int:
        """Number of calculations in the solution, 1 to 3."""
        return self.solution_en.count("=")


def kanji_numeral(number: int) -> str:
    """Return a number from 0 to 999 in kanji: 12 -> 十二, 105 -> 百五."""
    if number == 0:
        return _KANJI_DIGITS[0]
    text = ""
    for value, sign in ((100, "百"), (10, "十"), (1, "")):
        digit = number // value % 10
        if digit:
            text += ("" if digit == 1 and sign else _KANJI_DIGITS[digit]) + sign
    return text


def draw_problems(
    rng: np.random.Generator, *, count: int, kinds: Sequence[Kind] = KINDS, held_out: bool | None = False
) -> Iterator[Problem]:
    """Yield `count` random problems of the given kinds.

    `held_out` chooses the Japanese wording: False only the templates of training and search, True only those kept for
    the report split, None all of them.
    """
    for _ in range(count):
        kind = kinds[int(rng.integers(len(kinds)))]
        yield _draw(rng, kind=kind, held_out=held_out)


def _draw(rng: np.random.Generator, *, kind: Kind, held_out: bool | None) -> Problem:
    numbers, results = _draw_numbers(rng, kind)
    item = ITEMS[int(rng.integers(len(ITEMS)))]
    first, second = rng.choice(len(NAMES), size=2, replace=False)
    cut = len(kind.ja) - HELD_OUT_TEMPLATES
    wordings = {False: range(cut), True: range(cut, len(kind.ja)), None: range(len(kind.ja))}[held_out]
    wording = wordings[int(rng.integers(len(wordings)))]
    # The same position in both tables is the same wording, so that the two questions are translations of each other.
    ja, en = kind.ja[wording], kind.en[wording % len(kind.en)]
    if rng.random() < 0.12:
        before_ja, before_en = DISTRACTORS[int(rng.integers(len(DISTRACTORS)))]
        age = str(int(rng.integers(5, 40)))
        ja, en = before_ja.replace("{k}", age) + ja, before_en.replace("{k}", age) + " " + en
    style = rng.random()
    write = kanji_numeral if style < 0.06 else _full_width if style < 0.12 else str
    words_ja = {"name": NAMES[first][0], "other": NAMES[second][0], "item": item.ja, "counter": item.counter}
    words_en = {"name": NAMES[first][1], "other": NAMES[second][1], "item": item.en}
    unit = "円" if kind.money else item.counter
    equations = [f"{left}{sign}{right}={value}" for (left, sign, right), value in results]
    number = results[-1][1]
    return Problem(
        kind=kind.name,
        plan=f"{kind.name}:{item.en}:" + ",".join(f"{key}={value}" for key, value in sorted(numbers.items())),
        number=number,
        unit=unit,
        item=item,
        numbers=tuple(numbers.values()),
        question_ja=ja.format(**words_ja, **{key: write(value) for key, value in numbers.items()}),
        question_en=en.format(**words_en, **numbers),
        solution_ja="".join(f"{word}{equation}{unit}。" for word, equation in zip(_ORDER_JA, equations, strict=False))
        + f"答えは{number}{unit}です。",
        solution_en=" ".join(f"{word}{equation}." for word, equation in zip(_ORDER_EN, equations, strict=False))
        + f" The answer is {number}.",
    )


_Step = tuple[tuple[int, str, int], int]


def _draw_numbers(rng: np.random.Generator, kind: Kind) -> tuple[dict[str, int], list[_Step]]:
    """Draw numbers until every step gives a whole number from 1 to LARGEST (quotients: 2 to 12)."""
    while True:
        numbers = {key: int(rng.integers(low, high + 1)) for key, (low, high) in kind.ranges.items()}
        if kind.name == "change":
            numbers["d"] = 50 if numbers["d"] < 75 else 100
        known = dict(numbers)
        results: list[_Step] = []
        for (left, sign, right), name in zip(kind.steps, "xyz", strict=False):
            value = _calculate(known[left], sign, known[right])
            if value is None:
                break
            known[name] = value
            results.append(((known[left], sign, known[right]), value))
        else:
            return numbers, results


def _calculate(left: int, sign: str, right: int) -> int | None:
    """Return the result, or None if it does not suit a grade-school problem."""
    if sign == "÷":
        quotient, rest = divmod(left, right)
        return quotient if rest == 0 and 2 <= quotient <= 12 else None
    value = {"+": left + right, "-": left - right, "×": left * right}[sign]
    return value if 1 <= value <= LARGEST else None


def _full_width(number: int) -> str:
    return "".join(chr(ord(digit) + 0xFEE0) for digit in str(number))
