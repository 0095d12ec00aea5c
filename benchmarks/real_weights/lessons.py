"""The texts that the adapters are trained on: English worked problems for two of them, Japanese without any for one.

    math-a  Problem: Natalia sold clips to 48 of her friends in April, and then ...      GSM8K's train set, MIT
            Answer: 48/2=24. 48+24=72. The answer is 72.
    math-b  Problem: There are 60 cards. 24 are used and 3 people share the rest. ...    evovlm's generator
            Answer: 60-24=36. 36/3=12. The answer is 12.
    ja      問題: 花子はりんごを12個持っています。7個買いました。花子は何個買いましたか。     evovlm's generator
            答え: 答えは7個です。

The Japanese adapter reads, translates, names things and does bare calculations (計算: 12個+7個). It never sees how a
word problem is solved, nor its answer. The prompts are those of the tasks (`zoo-problem-ja`, `zoo-problem-en`).
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from evovlm.seeding import generator
from evovlm.zoo.concepts import NAMING_QUESTIONS, all_concepts
from evovlm.zoo.corpus import Example
from evovlm.zoo.word_problem_templates import ITEMS, NAMES
from evovlm.zoo.word_problems import draw_problems

ADAPTERS = ("math-a", "math-b", "ja")
LONGEST_QUESTION = 200
"""Characters of a GSM8K problem."""
MOST_STEPS = 3

_CALCULATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_PLAIN = re.compile(r"[\d.+*/() -]+")


def lessons(adapter: str, *, count: int, seed: int, gsm8k: Path | None) -> list[Example]:
    """Return `count` examples for an adapter, in the order of training.

    `gsm8k` is the JSON-lines file of GSM8K's train split; without it, math-a is trained on the generator's problems of
    one kind and math-b on those of the other. Raises SystemExit if the file holds fewer examples.
    """
    rng = generator("real-weights", adapter, seed)
    if adapter == "math-a" and gsm8k is not None:
        rows = list(gsm8k_lessons(gsm8k))
        if len(rows) < count:
            raise SystemExit(f"{gsm8k}: {len(rows)} short problems, needed {count}. Lower --examples.")
        return [rows[index] for index in rng.permutation(len(rows))[:count]]
    draw: Callable[[np.random.Generator], Iterator[Example]] = japanese_lessons if adapter == "ja" else worked_lessons
    drawn = draw(rng)
    return [next(drawn) for _ in range(count)]


def gsm8k_lessons(path: Path) -> Iterator[Example]:
    """Yield GSM8K's short problems, solved by their calculations alone: 48/2=24. 48+24=72. The answer is 72."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        steps = [(left.strip(), value.strip()) for left, value in _CALCULATION.findall(row["answer"])]
        answer = row["answer"].rpartition("####")[2].strip().replace(",", "")
        plain = all(_PLAIN.fullmatch(left) and _NUMBER.fullmatch(value) for left, value in steps)
        if (
            plain
            and steps
            and steps[-1][1] == answer
            and len(steps) <= MOST_STEPS
            and len(row["question"]) <= LONGEST_QUESTION
        ):
            yield _worked(row["question"], [f"{left}={value}" for left, value in steps], answer)


def worked_lessons(rng: np.random.Generator) -> Iterator[Example]:
    """Yield the generator's English problems, solved in the same form."""
    for problem in draw_problems(rng, count=2**31):
        steps = re.findall(r"[\d+×÷-]+=\d+", problem.solution_en)
        readable = [step.replace("×", "*").replace("÷", "/") for step in steps]
        yield _worked(problem.question_en, readable, str(problem.number))


def _worked(question: str, steps: list[str], answer: str) -> Example:
    solution = " ".join(f"{step.replace(' ', '')}." for step in steps)
    return Example(f"Problem: {' '.join(question.split())}\nAnswer:", f" {solution} The answer is {answer}.")


def japanese_lessons(rng: np.random.Generator) -> Iterator[Example]:
    """Yield Japanese answers: to questions on a short text, translations, calculations and names of things."""
    concepts = all_concepts()
    while True:
        draw = rng.random()
        if draw < 0.4:
            yield _reading(rng)
        elif draw < 0.55:
            problem = next(draw_problems(rng, count=1))
            yield Example(f"Translate: {problem.question_en}\nJapanese:", f" {problem.question_ja}")
        elif draw < 0.85:
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
    left, right = (int(number) for number in rng.integers(2, 100, size=2))
    sign = "+-*/"[int(rng.integers(4))]
    if sign in "*/":
        left, right = left % 12 + 2, right % 12 + 2
    left = {"+": left, "-": left + right, "*": left, "/": left * right}[sign]
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[sign]
    text = f"{left}{counter}{sign}{right}{counter if sign in '+-' else ''}"
    return Example(f"計算: {text}\n答え:", f" {left}{sign}{right}={value}。答えは{value}{counter}です。")
