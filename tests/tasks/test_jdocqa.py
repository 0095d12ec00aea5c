import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.tasks.metrics.rouge import words
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import score_answer
from evovlm.tasks.metrics.text_match import CLOSED_TAGS, jdocqa_value, sentence_bleu
from evovlm.tasks.sample import Sample


@pytest.mark.parametrize(
    ("reference", "text", "value"),
    [
        ("はい", "はい、そうです。", 1.0),
        ("１２ 人です。", "全部で12人です", 1.0),
        ("東京都、千代田区", "住所は東京都千代田区です", 1.0),
        ("はい", "いいえ", 0.0),
        ("。", "はい", 0.0),
        ("。", "", 1.0),
    ],
)
@pytest.mark.parametrize("tag", sorted(CLOSED_TAGS))
def test_closed_questions_are_right_where_the_answer_holds_the_reference(
    tag: str, reference: str, text: str, value: float
) -> None:
    assert jdocqa_value(reference, text, tags={tag, "slides"}) == value


def plain_bleu(reference: str, text: str) -> float:
    """BLEU of Papineni et al. 2002 over four orders; the n-th order without a match counts 1/2^n of one."""
    wanted, found = words(reference), words(text)
    log_sum, smoothing = 0.0, 1.0
    for order in range(1, 5):
        left, right = (
            Counter(tuple(side[i : i + order]) for i in range(len(side) - order + 1)) for side in (found, wanted)
        )
        if not left:
            return 0.0
        matches: float = sum((left & right).values())
        if not matches:
            smoothing *= 2
            matches = 1 / smoothing
        log_sum += math.log(matches / sum(left.values())) / 4
    return min(1.0, math.exp(1 - len(wanted) / len(found))) * math.exp(log_sum)


@settings(max_examples=50, deadline=None)
@given(*[st.lists(st.sampled_from(["犬", "猫", "と", "が", "走る"]), min_size=1, max_size=9).map("、".join)] * 2)
def test_sentence_bleu_is_that_of_a_plain_loop(reference: str, text: str) -> None:
    if set(words(reference)) & set(words(text)):
        assert sentence_bleu(reference, text) == pytest.approx(plain_bleu(reference, text), abs=1e-6)


def test_open_questions_get_bleu() -> None:
    sample = Sample(id="1", question="", references=("東京タワーは赤い塔です。",), tags=frozenset({"open"}))
    scoring = Scoring(metric="jdocqa")
    assert score_answer(scoring, sample, "東京タワーは赤い塔です。").score == pytest.approx(1.0)
    assert 0.0 < score_answer(scoring, sample, "東京タワーは青い塔です。").score < 1.0
    assert score_answer(scoring, sample, "").score == 0.0
