"""Short answers, formulas and transcriptions found in what models write, against references."""

import time

import pytest

from evovlm.tasks.metrics.math_answers import math_answer, same_math
from evovlm.tasks.metrics.short_answers import quasi_char_f1, short_answer
from evovlm.tasks.metrics.text_match import contains, ocr_f1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("東京は大きい。\n\n回答: $\\boxed{東京都}$", "東京都"),
        ("回答: $\\boxed{\\text{NO}}$", "NO"),
        ("公開年は1990年と2001年です。答えは「前者」です。理由は年です。", "前者"),
        ("回答：はい", "YES"),
        ("**京都**", "京都"),
        ("ＮＨＫ", "NHK"),
        ("違う", "NO"),
        ("東京都です", "東京都"),
        ("答えは大阪。\n正解は京都。", "京都"),
        ("", ""),
    ],
)
def test_a_short_answer_is_found_as_on_the_leaderboard(text: str, answer: str) -> None:
    assert short_answer(text) == answer


def test_characters_are_shared_as_often_as_they_occur() -> None:
    assert quasi_char_f1("東京都", "回答: $\\boxed{京都府}$") == pytest.approx(2 * 2 / 6)
    assert quasi_char_f1("YES", "はい") == 1.0
    assert quasi_char_f1("YES", "大阪") == 0.0
    assert quasi_char_f1("YES", "") == 0.0


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (r"\frac{3}{2}", r"回答: $\boxed{\dfrac{3}{2}}$"),
        (r"\frac{3}{2}", r"$\boxed{1.5}$"),
        ("1.5", r"\boxed{\frac32}"),
        (r"2\sqrt{3}", r"$x = 2\sqrt 3$。回答: $\boxed{x=2\sqrt 3}$"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3,\frac{\pi}{2})}"),
        ("18", "答えは18ドルです。"),
        ("18", r"\boxed{18 \text{ドル}}"),
        ("10000", r"\boxed{10{,}000}"),
        (r"90^\circ", r"\boxed{90}"),
        ("[0,1)", r"\boxed{[0, 1)}"),
        (r"\text{(A)}", r"\boxed{A}"),
        (r"-\frac{1}{2}", r"\boxed{\frac{-1}{2}}"),
        ("50", r"\boxed{50\%}"),
        ("$\\boxed{7}$", "まず\\boxed{3}、つまり\\boxed{7}"),
        (r"\frac{1}{2}", "答えは 1/2 です。"),
        ("12", "全部で12個になります。"),
    ],
)
def test_a_right_formula_or_number_is_right_in_any_spelling(reference: str, text: str) -> None:
    assert same_math(reference, text) == 1.0


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("18", r"\boxed{19}"),
        ("[0,1)", r"\boxed{[0,1]}"),
        (r"(1,000)", r"\boxed{1000}"),
        ("x+1", r"\boxed{x-1}"),
        ("5", ""),
        ("5", "わかりません。"),
        (r"\frac{1}{2}", r"\boxed{\frac{2}{1}}"),
        (r"2\sqrt{3}", r"\boxed{3\sqrt{2}}"),
        ("7", r"\boxed{(7,8)}"),
    ],
)
def test_another_formula_or_number_is_wrong(reference: str, text: str) -> None:
    assert same_math(reference, text) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["\\boxed{", "答えは", "{", "\\frac{", "回答: ", "(", "\\boxed{a", "1,"])
def test_no_text_takes_long(piece: str) -> None:
    text = (piece * 50_000)[:50_000]
    start = time.process_time()
    same_math("1", text)
    quasi_char_f1("1", text)
    math_answer(text)
    assert time.process_time() - start < 5


def test_transcriptions_share_characters_without_blanks_and_case() -> None:
    assert ocr_f1("出 口\nEXIT", "exit 出口") == 1.0
    assert ocr_f1("出口", "入口") == 0.5
    assert ocr_f1("出口", "") == 0.0
    assert contains("アザミ", "これはアザミです。") == 1.0
    assert contains("アザミ", "これは菊です。") == 0.0
