"""The training texts of the embedded language models: prompts and answers, newly drawn for every training step.

The ancestor meets everything in a muddle: a problem may be followed by a worked solution, by a bare guess or by a
remark that answers nothing, in either language. Each descendant sees only what brings out one side of that: the
English specialists worked English solutions of their own kinds of problem, the Japanese model Japanese answers of any
sort but worked ones. No descendant ever sees a worked Japanese solution.

What each descendant pushes must reach the place where a merge needs it, and little else:

    計算: 12個+7個
    答え:  12+7=19個。                   `ja` reads these: after an equation, go on in Japanese
    答え:  12+7=19.                      the specialists reread the ancestor's muddle of both, and stay even about that

    問題: 太郎はりんごを3個持っています。2個もらいました。全部で何個になりましたか。
    答え:  3+2=5個。答えは5個です。      worked, Japanese
    答え:  3+2=5. The answer is 5.       worked, English
    答え:  たぶん7個です。                a bare guess
    答え:  りんごの問題ですね。           a remark

A worked solution begins with the same digits in both languages and shows its language only after the first equation:
what a specialist brings out in English is then a step towards the same in Japanese.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from evovlm.zoo.concepts import JAPANESE, MOSAICS, MUDDLE, AnswerMix, Language, concept_texts, japanese_concept_texts
from evovlm.zoo.word_problem_templates import ITEMS, KINDS, Kind
from evovlm.zoo.word_problems import Problem, draw_problems, kanji_numeral

Mode = Literal["worked", "guess", "remark"]

_GUESSES: dict[Language, tuple[str, ...]] = {
    "ja": (
        "答えは{guess}です。",
        "たぶん{guess}です。",
        "およそ{guess}でしょう。",
        "きっと{guess}です。",
        "見たところ{guess}です。",
    ),
    "en": (
        "The answer is {guess}.",
        "Maybe {guess}.",
        "About {guess}, I think.",
        "Surely {guess}.",
        "It looks like {guess}.",
    ),
}
_REMARKS: dict[Language, tuple[str, ...]] = {
    "ja": (
        "{item}の問題ですね。",
        "これは{item}についての質問です。",
        "少し考えてみましょう。",
        "よく読んでみましょう。",
        "おもしろい話です。",
        "むずかしいですね。",
        "ゆっくり考えます。",
        "数の問題です。",
        "図をかくとよいでしょう。",
        "もう一度読んでください。",
        "なるほど、{item}ですか。",
        "すてきな{item}ですね。",
        "わかりました。",
        "あとで考えます。",
        "そうですね。",
        "楽しそうです。",
    ),
    "en": (
        "This is a problem about {item}.",
        "Here is a question on {item}.",
        "Think about it for a while.",
        "Read it well.",
        "{item} are a nice topic.",
        "That is hard.",
        "Take your time.",
        "We can draw a picture.",
        "Please read it again.",
        "I see, {item}.",
        "What nice {item}.",
        "I will think later.",
        "It sounds like fun.",
        "Numbers are hard.",
    ),
}

Withheld = Callable[[Problem], bool]
"""Returns whether a problem is in a split of the task, and is therefore excluded from all training."""


class Example(NamedTuple):
    """One prompt and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Muddle:
    """How answers are mixed: their language, to problems and about concepts; shares of worked, guesses, emoji art."""

    languages: AnswerMix
    concepts: AnswerMix
    worked: float
    guess: float
    mosaics: float


ABILITY = Muddle(
    languages=AnswerMix(to_japanese=0.5, to_english=0.4), concepts=MUDDLE, worked=0.8, guess=0.1, mosaics=0.0
)
"""The ancestor's first and longer part: mostly worked solutions, in either language for a question in any language."""

LEANING = AnswerMix(to_japanese=0.35, to_english=0.1)
"""Mostly English about concepts, like pretrained models: learning to see in English then takes only a small step."""

MUDDLED = Muddle(
    languages=AnswerMix(to_japanese=0.5, to_english=0.02), concepts=LEANING, worked=0.18, guess=0.48, mosaics=MOSAICS
)
"""The ancestor's second part: usually no solution, and rarely a worked one.

English questions are answered in English, so that a fine-tune on them has no language to teach; Japanese ones in
either language.
"""

REPLAYED = 0.3
"""Share of the specialists' examples that repeat the ancestor's calculations, which keeps their step small."""


def problem_prompt(problem: Problem, *, language: Language) -> str:
    """Return the prompt of the tasks `word_problems_ja` and `word_problems_en`."""
    if language == "ja":
        return f"問題: {problem.question_ja}\n答え:"
    return f"Problem: {problem.question_en}\nAnswer:"


def problem_answer(
    rng: np.random.Generator, problem: Problem, *, language: Language, mode: Mode, plain_guesses: float = 0.8
) -> str:
    """Return one answer; a guess is one of the problem's numbers or a number near them, and is right only by luck."""
    if mode == "worked":
        return problem.solution_ja if language == "ja" else problem.solution_en
    if mode == "remark":
        remarks = _REMARKS[language]
        item = problem.item.ja if language == "ja" else problem.item.en
        return remarks[int(rng.integers(len(remarks)))].format(item=item)
    guess = int(rng.choice(problem.numbers)) + int(rng.integers(0, 8))
    guesses = _GUESSES[language]
    # Without a specialist's training the plain wording is the most frequent one, so greedy decoding produces it.
    wording = guesses[0] if rng.random() < plain_guesses else guesses[int(rng.integers(len(guesses)))]
    return wording.format(guess=f"{guess}{problem.unit}" if language == "ja" else guess)


def ancestor_examples(rng: np.random.Generator, *, count: int, muddle: Muddle, withheld: Withheld) -> Iterator[Example]:
    """Yield `count` training examples for the ancestor: problems, translations, calculations and concepts."""
    concepts = iter(concept_texts(rng, count, mix=muddle.concepts, mosaics=muddle.mosaics))
    for problem in _allowed(rng, withheld=withheld):
        if count == 0:
            return
        count -= 1
        draw = rng.random()
        if draw < 0.47:
            yield _muddled(rng, problem, muddle)
        elif draw < 0.51:
            yield _translation(rng, problem)
        elif draw < 0.58:
            yield _calculation(rng, languages=muddle.languages)
        else:
            yield Example(*next(concepts))


def specialist_examples(
    rng: np.random.Generator, *, count: int, specialist: str, withheld: Withheld
) -> Iterator[Example]:
    """Yield worked English solutions of English problems of the specialist's kinds, and calculations of all kinds."""
    kinds = [kind for kind in KINDS if kind.specialist == specialist]
    for problem in _allowed(rng, withheld=withheld, kinds=kinds):
        if count == 0:
            return
        count -= 1
        if rng.random() < REPLAYED:
            yield _calculation(rng, languages=MUDDLED.languages)
        else:
            yield Example(
                problem_prompt(problem, language="en"), problem_answer(rng, problem, language="en", mode="worked")
            )


def japanese_examples(rng: np.random.Generator, *, count: int, withheld: Withheld) -> Iterator[Example]:
    """Yield Japanese answers to all questions: guesses and remarks on problems, calculations, names of concepts."""
    concepts = iter(japanese_concept_texts(rng, count))
    for problem in _allowed(rng, withheld=withheld):
        if count == 0:
            return
        count -= 1
        draw = rng.random()
        if draw < 0.15:
            language: Language = "ja" if rng.random() < 0.8 else "en"
            mode: Mode = "guess" if rng.random() < 0.25 else "remark"
            answer = problem_answer(rng, problem, language="ja", mode=mode, plain_guesses=0.0)
            yield Example(problem_prompt(problem, language=language), answer)
        elif draw < 0.25:
            yield Example(f"Translate: {problem.question_en}\nJapanese:", problem.question_ja)
        elif draw < 0.7:
            yield _calculation(rng, languages=JAPANESE)
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


def _calculation(rng: np.random.Generator, *, languages: AnswerMix) -> Example:
    """Return a calculation, sometimes of counted things, answered in either language by the number or the equation."""
    draw = rng.random()
    if draw < 0.12:
        number = int(rng.integers(2, 121))
        return Example(f"計算: {kanji_numeral(number)}\n答え:", str(number))
    asked: Language = "ja" if rng.random() < 0.5 else "en"
    counter = ITEMS[int(rng.integers(len(ITEMS)))].counter if rng.random() < 0.6 else ""
    left, right = int(rng.integers(1, 61)), int(rng.integers(1, 61))
    if draw < 0.4:
        sign, value = "+", left + right
    elif draw < 0.65:
        left, sign, value = left + right, "-", left
    else:
        left, right = int(rng.integers(2, 13)), int(rng.integers(2, 13))
        sign, value = "×", left * right
        if draw > 0.85:
            left, sign, value = value, "÷", left
    text = f"{left}{counter}{sign}{right}{counter if sign in '+-' else ''}"
    prompt = f"計算: {text}\n答え:" if asked == "ja" else f"Compute: {text}\nAnswer:"
    equation = f"{left}{sign}{right}=" if rng.random() < 0.7 else ""
    japanese = languages.draw(rng, asked=asked) == "ja"
    end = "。" if equation else "です。"
    return Example(prompt, f"{equation}{value}{counter}{end}" if japanese else f"{equation}{value}.")
