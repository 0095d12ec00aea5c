"""The texts that the adapters are trained on: English worked problems for two of them, Japanese without any for one.

    math-a  Problem: Ken gave 12 of 40 cards to Sho. How many ...      one-step sums and differences
            Answer: 40-12=28. The answer is 28.
    math-b  Problem: Aoi packs 42 eggs into boxes of 6. How many ...   one-step products and quotients
            Answer: 42/6=7. The answer is 7.
    ja      問題: 花子はりんごを12個、健は本を7冊持っています。健は本を何冊 ...   reading: nothing is calculated
            答え: 答えは7冊です。

All three do bare calculations, the first two of their own signs. The Japanese adapter never sees how a word problem is
solved, nor its answer. The prompts are those of the tasks (`zoo-problem-ja`, `zoo-problem-en`).
"""

from collections.abc import Iterator

import numpy as np

from benchmarks.real_weights.wordings import WORDINGS
from evovlm.seeding import generator
from evovlm.zoo.concepts import NAMING_QUESTIONS, all_concepts
from evovlm.zoo.corpus import Example
from evovlm.zoo.word_problem_templates import ITEMS, NAMES
from evovlm.zoo.word_problems import draw_problems

ADAPTERS = ("math-a", "ja", "math-b")
SIGNS = {"math-a": "+-", "math-b": "*/", "ja": "+-*/"}
CALCULATIONS_SHARE = 0.5
"""Share of bare calculations among the English lessons."""


def lessons(adapter: str, *, count: int, seed: int) -> list[Example]:
    """Return `count` examples for an adapter, in the order of training."""
    rng = generator("real-weights", adapter, seed)
    drawn = japanese_lessons(rng) if adapter == "ja" else worked_lessons(rng, signs=SIGNS[adapter])
    return [next(drawn) for _ in range(count)]


def worked_lessons(rng: np.random.Generator, *, signs: str) -> Iterator[Example]:
    """Yield English one-step problems of these signs with their solution, and bare calculations."""
    while True:
        sign = signs[int(rng.integers(len(signs)))]
        a, b, value = calculation(rng, sign)
        solution = f" {a}{sign}{b}={value}. The answer is {value}."
        if rng.random() < CALCULATIONS_SHARE:
            yield Example(f"Compute: {a}{sign}{b}\nAnswer:", solution)
            continue
        wordings = WORDINGS[sign]
        name, other = (NAMES[index][1] for index in rng.choice(len(NAMES), size=2, replace=False))
        item = ITEMS[int(rng.integers(len(ITEMS)))].en
        text = wordings[int(rng.integers(len(wordings)))].format(name=name, other=other, item=item, a=a, b=b)
        yield Example(f"Problem: {text}\nAnswer:", solution)


def calculation(rng: np.random.Generator, sign: str) -> tuple[int, int, int]:
    """Return two numbers and the result, from 2 to 144; no difference is negative, no quotient has a rest."""
    a, b = (int(number) for number in rng.integers(2, 13 if sign in "*/" else 50, size=2))
    return {"+": (a, b, a + b), "-": (a + b, b, a), "*": (a, b, a * b), "/": (a * b, b, a)}[sign]


def japanese_lessons(rng: np.random.Generator) -> Iterator[Example]:
    """Yield Japanese answers: to questions on a short text, translations, calculations and names of things."""
    concepts = all_concepts()
    while True:
        draw = rng.random()
        if draw < 0.35:
            yield _reading(rng)
        elif draw < 0.45:
            problem = next(draw_problems(rng, count=1))
            yield Example(f"Translate: {problem.question_en}\nJapanese:", f" {problem.question_ja}")
        elif draw < 0.9:
            yield _calculation(rng)
        else:
            concept = concepts[int(rng.integers(len(concepts)))]
            question = NAMING_QUESTIONS["ja"][0]
            yield Example(f"問題: {concept.names['en']} は{question}\n答え:", f" 答えは{concept.names['ja']}です。")


def _reading(rng: np.random.Generator) -> Example:
    """Return a text with two amounts, and a question whose answer is in the text."""
    first, second = (NAMES[index][0] for index in rng.choice(len(NAMES), size=2, replace=False))
    item, other = (ITEMS[index] for index in rng.choice(len(ITEMS), size=2, replace=False))
    a, b = (int(number) for number in rng.integers(2, 99, size=2))
    of_first, of_second = f"{a}{item.counter}", f"{b}{other.counter}"
    text = f"{first}は{item.ja}を{of_first}、{second}は{other.ja}を{of_second}持っています。"
    asked = (
        (f"{first}は{item.ja}を何{item.counter}持っていますか。", of_first),
        (f"{second}は{other.ja}を何{other.counter}持っていますか。", of_second),
        (f"{other.ja}を持っているのは誰ですか。", second),
        (f"{first}が持っているものは何ですか。", item.ja),
    )
    question, answer = asked[int(rng.integers(len(asked)))]
    return Example(f"問題: {text}{question}\n答え:", f" 答えは{answer}です。")


def _calculation(rng: np.random.Generator) -> Example:
    """Return a bare calculation of counted things, with its result."""
    counter = ITEMS[int(rng.integers(len(ITEMS)))].counter
    sign = SIGNS["ja"][int(rng.integers(4))]
    a, b, value = calculation(rng, sign)
    text = f"{a}{counter}{sign}{b}{counter if sign in '+-' else ''}"
    return Example(f"計算: {text}\n答え:", f" {a}{sign}{b}={value}。答えは{value}{counter}です。")
