import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import TaskError
from evovlm.tasks.metrics.choices import read_choice
from evovlm.tasks.metrics.scoring import Answer, Scoring
from evovlm.tasks.metrics.table import score_answer
from evovlm.tasks.sample import Sample

CITIES = ("大阪", "東京", "京都", "名古屋")
VITAMINS = ("ビタミンA", "ビタミンB", "ビタミンC", "ビタミンD")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("Ｂ", "B"),
        ("（Ｂ）", "B"),
        ("Ⓑ", "B"),
        ("B. 東京", "B"),
        ("B: 東京", "B"),
        ("B 東京", "B"),
        ("Bです。", "B"),
        ("**B**", "B"),
        ("答えはBです", "B"),
        ("答えは、(b)です", "B"),
        ("正解は「B」です。", "B"),
        ("正解は選択肢Bです。", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (B) Tokyo", "B"),
        ("\\boxed{B}", "B"),
        ("まず A, C は違います。答えはBです。", "B"),
        ("答えはAかと思いましたが、違います。答えはB。", "B"),
        ("選択肢Bが正しいと思います。", "B"),
        ("したがって、B", "B"),
        ("東京", "B"),
        ("東京です。", "B"),
        ("答えは東京です", "B"),
        ("日本の首都は東京です", "B"),
        ("A cat lives in 東京", "B"),
        ("AではなくB。", "B"),
        ("AまたはB", None),
        ("A or B", None),
        ("A、B", None),
        ("東京か大阪です", None),
        ("Aさんは正しい", None),
        ("DVDとCD", None),
        ("A cat", None),
        ("E", None),
        ("わかりません", None),
        ("", None),
    ],
)
def test_the_option_is_read_from_a_free_answer(text: str, letter: str | None) -> None:
    assert read_choice(text, CITIES) == letter


@pytest.mark.parametrize(("text", "letter"), [("ビタミンCです", "C"), ("これはビタミンCです", "C"), ("B", "B")])
def test_a_letter_inside_a_word_is_not_an_option(text: str, letter: str) -> None:
    assert read_choice(text, VITAMINS) == letter
    assert read_choice(text.replace("ビタミンC", "ビタミンD"), CITIES) in (None, "B")


def test_an_option_that_is_part_of_another_was_not_named_with_it() -> None:
    assert read_choice("東京都です", ("京都", "東京都")) == "B"
    assert read_choice("京都です", ("京都", "東京都")) == "A"


def test_without_options_letters_alone_are_read() -> None:
    assert read_choice("答えはEです", ()) == "E"
    assert read_choice("東京", ()) is None


def test_an_empty_option_and_one_beyond_z_are_named_by_nothing() -> None:
    assert read_choice("", ("", "東京")) is None
    many = [f"番号{number:02d}" for number in range(30)]
    assert read_choice("番号25", many) == "Z"
    assert read_choice("番号26", many) is None


FRAMES = ["{}", "({})", "{}.", "答えは{}です", "答え: {}", "The answer is {}.", "正解は({})です。", "{}を選びます。"]


@given(st.integers(min_value=0, max_value=3), st.sampled_from(FRAMES), st.booleans())
def test_every_letter_is_read_in_every_frame(index: int, frame: str, wide: bool) -> None:
    letter = string.ascii_uppercase[index]
    assert read_choice(frame.replace("{}", chr(ord(letter) + 0xFEE0) if wide else letter), CITIES) == letter


@given(st.text(), st.lists(st.text(max_size=5), max_size=5))
def test_any_text_names_an_option_or_none(text: str, choices: list[str]) -> None:
    found = read_choice(text, choices)
    assert found is None or found in string.ascii_uppercase[: len(choices) or 26]


def test_no_option_found_is_unscored_and_a_wrong_one_is_wrong() -> None:
    sample = Sample(id="1", question="", references=("B",), choices=CITIES)
    scoring = Scoring(metric="multiple_choice", gate="script")
    assert score_answer(scoring, sample, "B").score == 1.0
    assert score_answer(scoring, sample, "C").unscored is None
    assert score_answer(scoring, sample, "わかりません") == Answer(
        sample=sample, text="わかりません", score=0.0, ungated=0.0, japanese=True, unscored="no option found"
    )


def test_a_reference_that_is_not_a_letter_is_an_error_of_the_data() -> None:
    sample = Sample(id="q7", question="", references=("東京",), choices=CITIES)
    with pytest.raises(TaskError, match=r"東京.*q7"):
        score_answer(Scoring(metric="multiple_choice"), sample, "B")
