from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.tasks.metrics.text_match import bare, char_f1, exact_match


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        ("東京タワー", "東京タワー", 1.0),
        ("東京タワー", "「東京タワー」。", 1.0),
        ("ABC 123", " ＡＢＣ　１２３！", 1.0),
        ("東京タワー", "東京タワーです", 0.0),
        ("UFO", "ufo", 0.0),
        ("12", "'12.'", 1.0),
        ("。", "", 1.0),
    ],
)
def test_exact_match_looks_past_widths_quotes_and_closing_punctuation(reference: str, text: str, value: float) -> None:
    assert exact_match(reference, text) == value


@pytest.mark.parametrize(
    ("reference", "text", "f1"),
    [
        ("東京タワー", "東京タワー", 1.0),
        ("東京タワー", "これは東京タワーです。", 2 * 5 / (5 + 10)),
        ("UFO", "ufo!", 1.0),
        ("青い", "赤", 0.0),
        ("青", "", 0.0),
        ("", "。", 1.0),
        # A character counts as often as both have it.
        ("ああい", "あうう", 2 * 1 / 6),
    ],
)
def test_char_f1(reference: str, text: str, f1: float) -> None:
    assert char_f1(reference, text) == pytest.approx(f1)


@given(st.text(alphabet="あいう猫犬", min_size=1), st.text(alphabet="あいう猫犬", min_size=1))
def test_char_f1_is_the_harmonic_mean_of_precision_and_recall(reference: str, text: str) -> None:
    shared = sum((Counter(reference) & Counter(text)).values())
    precision, recall = shared / len(text), shared / len(reference)
    expected = 2 * precision * recall / (precision + recall) if shared else 0.0
    assert char_f1(reference, text) == pytest.approx(expected)
    assert char_f1(text, reference) == pytest.approx(expected)


@given(st.text())
def test_a_text_matches_itself_however_it_is_quoted(text: str) -> None:
    assert exact_match(text, text) == char_f1(text, text) == 1.0
    assert bare(bare(text)) == bare(text)
    assert exact_match(text, f"「{text}」。") == 1.0
