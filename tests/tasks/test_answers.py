import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evovlm.tasks.answers import extract_paper, extract_robust
from tests.tasks.public_data import public_file

# The table of responses on which the paper's extractor and a reader part ways.
VECTORS = [
    ("答えは1,000円です。", 0.0, 1000.0),
    ("$1,234.50", 234.5, 1234.5),
    ("答えは-3です", 3.0, -3.0),
    ("答えは3/4", 4.0, 0.75),
    ("答えは１２個です", 12.0, 12.0),
    ("答え：１，２３４", 234.0, 1234.0),
    ("答えは十二", None, 12.0),
    ("答えは18. 以上", 18.0, 18.0),
]


@pytest.mark.parametrize(("text", "paper", "robust"), VECTORS)
def test_each_extractor_reads_its_column(text: str, paper: float | None, robust: float) -> None:
    assert (extract_paper(text), extract_robust(text)) == (paper, robust)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("まず12+7=19個。次に19-5=14個。答えは14個です。", 14),
        ("First 12+7=19. Then 19-5=14. The answer is 14.", 14),
        ("答えは、3×4=12個です", 12),
        ("答え:\n18", 18),
        ("**答え:** -$12.5", -12.5),
        ("The final answer is: $\\boxed{\\frac{3}{4}}$", 0.75),
        ("so 5.\n#### -5,000", -5000),
        ("答えは12です。検算: 12-7=5。", 12),
        ("答えは以下の通りです。\n\n12個", 12),
        ("答えは14個です。\n\n問題: 3人が4個ずつ持っています。\n答え: 12", 14),
        ("利益は8万5千円です", 85000),
        ("人口は1億2000万です", 120_000_000),
        ("答えはマイナス5です", -5),
        ("合計は三十五個です", 35),
        ("答えは二〇二四年です", 2024),
        ("広さは25m²です", 25),
        ("10 - 3 = 7", 7),
        ("19個-5個", 5),
        ("答えは.5です", 0.5),
        ("25%です", 25),
    ],
)
def test_the_robust_extractor_reads_what_a_person_would(text: str, number: float) -> None:
    assert extract_robust(text) == number


@pytest.mark.parametrize("text", ["", "わかりません。", "一方、花子は一歩一歩進みました", "答えは不明です"])
def test_no_number_is_none(text: str) -> None:
    assert extract_robust(text) is None


@pytest.mark.parametrize("text", ["9" * 5000, "九" * 5000, f"答えは{'1' * 400}/3", "答えは0/0です"])
def test_numbers_beyond_reason_do_not_raise(text: str) -> None:
    extract_robust(text)


def kanji(number: int) -> str:
    """Write a number below 10^16 in kanji, independently of the package: 2105 -> 二千百五."""
    if number == 0:
        return "〇"
    text = ""
    for place, myriad in ((12, "兆"), (8, "億"), (4, "万"), (0, "")):
        part = number // 10**place % 10_000
        digits = [(part // 10**power % 10, unit) for power, unit in ((3, "千"), (2, "百"), (1, "十"), (0, ""))]
        words = "".join(("" if d == 1 and unit else "〇一二三四五六七八九"[d]) + unit for d, unit in digits if d)
        text += words + myriad if words else ""
    return text


FULL_WIDTH = str.maketrans("0123456789,-.", "０１２３４５６７８９，－．")
WRITTEN: dict[str, Callable[[int], str]] = {
    "plain": str,
    "commas": lambda number: f"{number:,}",
    "full width": lambda number: str(number).translate(FULL_WIDTH),
    "full width commas": lambda number: f"{number:,}".translate(FULL_WIDTH),
    "kanji": lambda number: ("マイナス" if number < 0 else "") + kanji(abs(number)),
}
FRAMES = ["答えは{}です。", "答え: {}", "3と5で計算します。答えは{}円です。", "#### {}", "合計{}個", "{}"]


@given(
    st.integers(min_value=-(10**12), max_value=10**12),
    st.sampled_from(sorted(WRITTEN)),
    st.sampled_from(FRAMES),
)
@example(-3, "kanji", "合計{}個")
@example(1000, "commas", "答えは{}です。")
def test_every_whole_number_is_found_however_it_is_written(number: int, style: str, frame: str) -> None:
    if number < 0 and frame == "合計{}個" and style != "kanji":
        # After a kanji a minus means subtraction: 19個-5個.
        number = -number
    assert extract_robust(frame.replace("{}", WRITTEN[style](number))) == number


@given(st.text())
def test_any_text_has_a_finite_number_or_none(text: str) -> None:
    found = extract_robust(text)
    assert found is None or abs(found) < float("inf")


@given(st.text(alphabet="0123456789.,-=/ 十百万〇答えは:円です。\n$マイナス{}\\#"))
def test_texts_of_numbers_do_not_raise(text: str) -> None:
    extract_robust(text)
    extract_paper(text)


@pytest.mark.parametrize("model", ["gpt3", "cyberagent-open-calm-7b"])
def test_robust_is_right_as_often_as_the_harness_on_real_completions(model: str) -> None:
    (result,) = json.loads(public_file(f"mgsm_ja_completions/{model}.json").read_text(encoding="utf-8"))[
        "results"
    ].values()
    details = result["details"]
    by_harness = sum(row["extracted_answer"] == row["answer"] for row in details)
    by_robust = sum(extract_robust(row["completion"]) == row["answer"] for row in details)
    assert len(details) == 250
    assert by_robust >= by_harness > 0
