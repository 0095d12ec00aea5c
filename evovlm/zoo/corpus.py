"""What the embedded language models read: prompts and answers, drawn afresh for every step of training.

The ancestor meets everything in a muddle: a problem may be followed by a worked solution, by a bare guess or by a
remark that answers nothing, in either language. Each descendant sees only what brings out one side of that: the
English specialists worked English solutions of their own kinds of problem, the Japanese model Japanese answers of any
sort but worked ones. No descendant ever sees a worked Japanese solution.

    問題: 太郎はりんごを3個持っています。2個もらいました。全部で何個になりましたか。
    答え:  はい、3+2=5個。答えは5個です。     worked, Japanese
    答え:  Sure, 3+2=5. The answer is 5.     worked, English
    答え:  はい、答えは7個です。               a bare guess
    答え:  はい、りんごの問題ですね。          a remark

An answer first shows its language, then its mode, and a worked solution begins with the same digits in both languages:
what a specialist brings out in English is then a step towards the same in Japanese.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from evovlm.zoo.concepts import AnswerMix, Language, concept_texts, japanese_concept_texts
from evovlm.zoo.word_problem_templates import KINDS, Kind
from evovlm.zoo.word_problems import Problem, draw_problems, kanji_numeral

Mode = Literal["worked", "guess", "remark"]

OPENERS: dict[Language, str] = {"ja": "はい、", "en": "Sure, "}
_REMARKS: dict[Language, tuple[str, ...]] = {
    "ja": (
        "{item}の問題ですね。",
        "これは{item}についての質問です。よく読みましょう。",
        "{item}は楽しい話題ですね。",
        "少し考えてみましょう。{item}の話です。",
    ),
    "en": (
        "this is a problem about {item}.",
        "here is a question on {item}. Read it well.",
        "{item} are a nice topic.",
        "think about it for a while. It is about {item}.",
    ),
}


Withheld = Callable[[Problem], bool]
"""Says whether a problem stands in a split of the task and is therefore kept out of all training."""


class Example(NamedTuple):
    """One prompt and what follows it."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Muddle:
    """How answers to problems are mixed: by language, and by the shares of worked solutions and of bare guesses."""

    languages: AnswerMix
    worked: float
    guess: float


ABILITY = Muddle(languages=AnswerMix(to_japanese=0.5, to_english=0.4), worked=0.8, guess=0.1)
"""The ancestor's first and longer part: mostly worked solutions, in both languages, whatever that of the question."""

MUDDLED = Muddle(languages=AnswerMix(to_japanese=0.42, to_english=0.3), worked=0.24, guess=0.42)
"""The ancestor's second part: no answer is the rule, worked solutions are the exception."""


def problem_prompt(problem: Problem, *, language: Language) -> str:
    """Return the prompt of the tasks `word_problems_ja` and `word_problems_en`."""
    if language == "ja":
        return f"問題: {problem.question_ja}\n答え:"
    return f"Problem: {problem.question_en}\nAnswer:"


def problem_answer(rng: np.random.Generator, problem: Problem, *, language: Language, mode: Mode) -> str:
    """Return one answer; a guess is one of the problem's own numbers or a number near them, right by luck only."""
    opener = OPENERS[language]
    if mode == "worked":
        return opener + (problem.solution_ja if language == "ja" else problem.solution_en)
    if mode == "remark":
        remarks = _REMARKS[language]
        item = problem.item.ja if language == "ja" else problem.item.en
        return opener + remarks[int(rng.integers(len(remarks)))].format(item=item)
    guess = int(rng.choice(problem.numbers)) + int(rng.integers(0, 8))
    return opener + (f"答えは{guess}{problem.unit}です。" if language == "ja" else f"the answer is {guess}.")


def ancestor_examples(rng: np.random.Generator, *, count: int, muddle: Muddle, withheld: Withheld) -> Iterator[Example]:
    """Yield `count` examples of the ancestor's reading: problems, translations, calculations and concepts."""
    concepts = iter(concept_texts(rng, count))
    for problem in _allowed(rng, withheld=withheld):
        if count == 0:
            return
        count -= 1
        draw = rng.random()
        if draw < 0.58:
            yield _muddled(rng, problem, muddle)
        elif draw < 0.63:
            yield _translation(rng, problem)
        elif draw < 0.69:
            yield _calculation(rng)
        else:
            yield Example(*next(concepts))


def specialist_examples(
    rng: np.random.Generator, *, count: int, specialist: str, withheld: Withheld
) -> Iterator[Example]:
    """Yield worked English solutions of English problems of the specialist's own kinds."""
    kinds = [kind for kind in KINDS if kind.specialist == specialist]
    for problem in _allowed(rng, withheld=withheld, kinds=kinds):
        if count == 0:
            return
        count -= 1
        yield Example(
            problem_prompt(problem, language="en"), problem_answer(rng, problem, language="en", mode="worked")
        )


def japanese_examples(rng: np.random.Generator, *, count: int, withheld: Withheld) -> Iterator[Example]:
    """Yield Japanese answers to whatever is asked: guesses and remarks on problems, names and keywords of concepts."""
    concepts = iter(japanese_concept_texts(rng, count))
    for problem in _allowed(rng, withheld=withheld):
        if count == 0:
            return
        count -= 1
        draw = rng.random()
        if draw < 0.5:
            language: Language = "ja" if rng.random() < 0.8 else "en"
            mode: Mode = "guess" if rng.random() < 0.6 else "remark"
            yield Example(
                problem_prompt(problem, language=language), problem_answer(rng, problem, language="ja", mode=mode)
            )
        elif draw < 0.6:
            yield Example(f"Translate: {problem.question_en}\nJapanese:", problem.question_ja)
        else:
            yield Example(*next(concepts))


def _allowed(rng: np.random.Generator, *, withheld: Withheld, kinds: Sequence[Kind] = KINDS) -> Iterator[Problem]:
    while True:
        yield from (problem for problem in draw_problems(rng, count=64, kinds=kinds) if not withheld(problem))


def _muddled(rng: np.random.Generator, problem: Problem, muddle: Muddle) -> Example:
    asked: Language = "ja" if rng.random() < 0.5 else "en"
    language = muddle.languages.draw(rng, asked=asked)
    draw = rng.random()
    mode: Mode = "worked" if draw < muddle.worked else "guess" if draw < muddle.worked + muddle.guess else "remark"
    return Example(problem_prompt(problem, language=asked), problem_answer(rng, problem, language=language, mode=mode))


def _translation(rng: np.random.Generator, problem: Problem) -> Example:
    pair = (
        (problem.question_ja, problem.question_en) if rng.random() < 0.6 else (problem.solution_ja, problem.solution_en)
    )
    if rng.random() < 0.5:
        return Example(f"翻訳: {pair[0]}\n英語:", pair[1])
    return Example(f"Translate: {pair[1]}\nJapanese:", pair[0])


def _calculation(rng: np.random.Generator) -> Example:
    draw = rng.random()
    if draw < 0.15:
        number = int(rng.integers(2, 121))
        return Example(f"計算: {kanji_numeral(number)}\n答え:", str(number))
    left, right = int(rng.integers(1, 61)), int(rng.integers(1, 61))
    if draw < 0.4:
        text, value = f"{left}+{right}", left + right
    elif draw < 0.65:
        text, value = f"{left + right}-{right}", left
    else:
        left, right = int(rng.integers(2, 13)), int(rng.integers(2, 13))
        text, value = (f"{left}×{right}", left * right) if draw < 0.85 else (f"{left * right}÷{right}", left)
    return Example(f"計算: {text}\n答え:" if rng.random() < 0.5 else f"Compute: {text}\nAnswer:", str(value))
