"""What the embedded models read keeps to its word: who sees what, and that the splits stay unseen."""

import re

import numpy as np
import pytest

from evovlm.zoo.corpus import ABILITY, MUDDLED, ancestor_examples, japanese_examples, specialist_examples
from evovlm.zoo.word_problem_templates import KINDS
from evovlm.zoo.word_problems import Problem, draw_problems

JAPANESE = re.compile(r"[ぁ-んァ-ヶ一-龠]")


def keep_nothing_out(problem: Problem) -> bool:
    return False


@pytest.mark.parametrize("specialist", ["a", "b"])
def test_specialists_read_worked_english_solutions_and_the_ancestors_calculations(specialist: str) -> None:
    examples = list(
        specialist_examples(np.random.default_rng(0), count=200, specialist=specialist, withheld=keep_nothing_out)
    )
    assert len(examples) == 200
    problems = [example for example in examples if example.prompt.startswith("Problem: ")]
    assert 120 < len(problems) < 160
    for example in problems:
        assert not JAPANESE.search(example.prompt + example.answer)
        assert re.match(r"\d+[+\-×÷]\d+=\d+\. ", example.answer)
    calculations = [example for example in examples if example not in problems]
    assert all(example.prompt.startswith(("計算: ", "Compute: ")) for example in calculations)
    assert all(example.answer.count("=") <= 1 and "答え" not in example.answer for example in calculations)


def test_each_kind_belongs_to_one_specialist_and_both_have_some() -> None:
    assert {kind.specialist for kind in KINDS} == {"a", "b"}


def test_the_japanese_model_never_reads_a_worked_solution() -> None:
    examples = list(japanese_examples(np.random.default_rng(0), count=800, withheld=keep_nothing_out))
    assert len(examples) == 800
    answered = [example for example in examples if example.prompt.startswith(("問題", "Problem"))]
    assert len(answered) > 80
    assert all(JAPANESE.search(example.answer) and "=" not in example.answer for example in answered)
    assert any("=" in example.answer for example in examples)
    for example in examples:
        if "=" in example.answer:
            assert example.prompt.startswith(("計算: ", "Compute: "))
            assert re.fullmatch(r"\d+[+\-×÷]\d+=\d+\w?。", example.answer)


@pytest.mark.parametrize(("muddle", "worked", "japanese"), [(ABILITY, 0.8, 0.45), (MUDDLED, 0.18, 0.26)])
def test_the_ancestor_reads_answers_of_every_sort_in_both_languages(muddle, worked: float, japanese: float) -> None:
    examples = list(ancestor_examples(np.random.default_rng(0), count=2000, muddle=muddle, withheld=keep_nothing_out))
    answers = [example.answer for example in examples if example.prompt.startswith(("問題", "Problem"))]
    assert len(answers) > 800
    assert abs(np.mean(["=" in answer for answer in answers]) - worked) < 0.05
    assert abs(np.mean([bool(JAPANESE.search(answer)) for answer in answers]) - japanese) < 0.05


def test_withheld_problems_are_in_no_training_text() -> None:
    kept = {problem.kind for problem in draw_problems(np.random.default_rng(0), count=300)} - {"gain"}
    examples = list(
        ancestor_examples(np.random.default_rng(1), count=600, muddle=ABILITY, withheld=lambda p: p.kind in kept)
    )
    worked = [e.answer for e in examples if e.prompt.startswith("問題") and "=" in e.answer]
    assert worked
    assert all(re.search(r"\d\+\d", answer) for answer in worked)
    assert not any(sign in answer for answer in worked for sign in "×÷-")
