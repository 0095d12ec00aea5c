"""The word problems: right by construction, the same in both languages, and separated by split."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evovlm.zoo.training import withheld_plans, write_word_problem_tasks
from evovlm.zoo.word_problem_templates import KINDS
from evovlm.zoo.word_problems import LARGEST, draw_problems, kanji_numeral

EQUATION = re.compile(r"(\d+)([+\-×÷])(\d+)=(\d+)")
OPERATIONS = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "×": lambda left, right: left * right,
    "÷": lambda left, right: left // right,
}


@pytest.fixture(scope="module")
def problems():
    return list(draw_problems(np.random.default_rng(0), count=600, held_out=None))


def test_every_equation_of_every_solution_holds_and_the_last_one_gives_the_answer(problems) -> None:
    for problem in problems:
        for solution in (problem.solution_ja, problem.solution_en):
            equations = EQUATION.findall(solution)
            assert len(equations) == problem.steps
            for left, sign, right, result in equations:
                assert OPERATIONS[sign](int(left), int(right)) == int(result)
                assert max(int(left), int(right), int(result)) <= LARGEST
            assert int(equations[-1][3]) == problem.number
            assert int(re.findall(r"\d+", solution)[-1]) == problem.number


def test_no_placeholder_is_left_and_every_kind_is_drawn(problems) -> None:
    assert {problem.kind for problem in problems} == {kind.name for kind in KINDS}
    for problem in problems:
        assert not re.search(r"[{}]", problem.question_ja + problem.question_en)


def test_numbers_are_written_in_ascii_full_width_and_kanji(problems) -> None:
    questions = "".join(problem.question_ja for problem in problems)
    assert re.search(r"[0-9]{2}個", questions)
    assert re.search(r"[０-９]{2}", questions)
    assert re.search(r"[二三四五六]十", questions)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "〇"), (7, "七"), (10, "十"), (12, "十二"), (40, "四十"), (100, "百"), (105, "百五"), (120, "百二十")],
)
def test_kanji_numerals_are_read_as_written(number: int, text: str) -> None:
    assert kanji_numeral(number) == text


def test_the_same_seed_draws_the_same_problems_and_another_seed_does_not() -> None:
    first, second = (list(draw_problems(np.random.default_rng(seed), count=20)) for seed in (1, 1))
    assert first == second
    assert first != list(draw_problems(np.random.default_rng(2), count=20))


def test_splits_share_no_instance_and_only_the_report_split_has_new_wordings(tmp_path: Path) -> None:
    write_word_problem_tasks(tmp_path, seed=0)
    rows = {
        split: [json.loads(line) for line in (tmp_path / f"word_problems_ja.{split}.jsonl").read_text().splitlines()]
        for split in ("search", "report")
    }
    plans = [row["plan"] for split in rows.values() for row in split]
    assert len(set(plans)) == len(plans)
    assert withheld_plans(tmp_path) == frozenset(plans)
    assert not any("new-wording" in row["tags"] for row in rows["search"])
    assert sum("new-wording" in row["tags"] for row in rows["report"]) == 100


def test_japanese_and_english_tasks_are_twins(tmp_path: Path) -> None:
    write_word_problem_tasks(tmp_path, seed=0)
    for split in ("search", "report"):
        twins = [
            [
                json.loads(line)
                for line in (tmp_path / f"word_problems_{language}.{split}.jsonl").read_text().splitlines()
            ]
            for language in ("ja", "en")
        ]
        assert [row["id"] for row in twins[0]] == [row["id"] for row in twins[1]]
        assert [row["number"] for row in twins[0]] == [row["number"] for row in twins[1]]
