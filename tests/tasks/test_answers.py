import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evovlm.tasks.metrics.answers import extract_paper, extract_robust
from tests.marks import quick_and_slow
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
        ("つまり1550,000ドル", 1_550_000),
        ("答えは2½です", 2.5),
        ("-\\frac{3}{4}", -0.75),
        ("2\\frac{1}{2}", 2.5),
        ("答えは1と2分の1です", 1.5),
        ("三分の二", 2 / 3),
        ("12/5と1/2", 0.5),
        (r"答えは $\displaystyle\frac{5}{8}$ です", 0.625),
        (r"\boxed{\nicefrac{3}{4}}", 0.75),
        (r"\boxed{\sfrac{3}{4}}", 0.75),
        (r"\boxed{10^3}", 1000),
        (r"\boxed{2^{10}}", 1024),
        (r"面積は$5\,\mathrm{m}^2$です", 5),
        ("\\boxed{1'080}", 1080),
        ("1’000円です", 1000),
        ("Answer: 1e3", 1000),
        ("The answer is 1.5e-2.", 0.015),
        ("$28 - $24 = $4 million", 4),
        ("The answer is two thirds.", 2 / 3),
        ("The answer is one half.", 0.5),
        ("The answer is three-quarters.", 0.75),
        ("したがって、18｛最初は25｝", 18),
        ("答えは18個〈最初は25個〉です。", 18),
        ("残りは18個です。【補足】最初は25個。", 18),
        ("答えは18です。\n\n例2：太郎は5個。答えは5です。", 18),
        ("The answer is 18.\n\nExample 2: Tom has 5. The answer is 5.", 18),
        ("The answer is 18.\n\nHere is another problem: Tom has 5. The answer is 5.", 18),
        ("The answer is 18.\n\nLet's try another one. Tom has 5. The answer is 5.", 18),
        ("It may be 18.\nLet's try another way: 3 x 5. The answer is 15.", 15),
    ],
)
def test_the_robust_extractor_reads_what_a_person_would(text: str, number: float) -> None:
    assert extract_robust(text) == number


@pytest.mark.parametrize("text", ["", "わかりません。", "一方、花子は一歩一歩進みました", "答えは不明です"])
def test_a_text_without_a_number_gives_none(text: str) -> None:
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


ENGLISH = ["The answer is {}.", "So the answer is: {}", "2 + 3, then more.\n#### {}", "The answer: \\boxed{{}}"]
JAPANESE = [
    "答えは{}です。",
    "答え：{}",
    "5人なので、正解は{}個。",
    "よって、{}円になります。",
    "3×5を計算すると{}",
    "解答:\n{}メートル",
]


@given(
    st.integers(min_value=0, max_value=10**9),
    st.integers(min_value=0, max_value=99),
    st.booleans(),
    st.sampled_from(ENGLISH + JAPANESE),
    st.booleans(),
)
def test_every_decimal_is_found_in_either_language(
    whole: int, hundredths: int, grouped: bool, frame: str, full_width: bool
) -> None:
    written = f"{whole:,}.{hundredths:02d}" if grouped else f"{whole}.{hundredths:02d}"
    text = frame.replace("{}", written.translate(FULL_WIDTH) if full_width else written)
    assert extract_robust(text) == float(f"{whole}.{hundredths:02d}")


FRACTIONS: dict[str, Callable[[int, int], str]] = {
    "slash": lambda over, under: f"{over}/{under}",
    "full width": lambda over, under: f"{over}／{under}".translate(FULL_WIDTH),
    "latex": lambda over, under: f"\\frac{{{over}}}{{{under}}}",
    "分の": lambda over, under: f"{under}分の{over}",
    "kanji": lambda over, under: f"{kanji(under)}分の{kanji(over)}",
}


@given(
    st.integers(min_value=1, max_value=99),
    st.integers(min_value=2, max_value=99),
    st.sampled_from(sorted(FRACTIONS)),
    st.sampled_from(JAPANESE + ENGLISH),
)
def test_every_fraction_is_found(over: int, under: int, style: str, frame: str) -> None:
    assert extract_robust(frame.replace("{}", FRACTIONS[style](over, under))) == pytest.approx(over / under)


@given(st.integers(min_value=0, max_value=999), st.integers(min_value=1, max_value=9), st.sampled_from(["と", " "]))
def test_every_mixed_number_is_found(whole: int, over: int, joined: str) -> None:
    assert extract_robust(f"答えは{whole}{joined}{over}/10です") == pytest.approx(whole + over / 10)


@given(st.integers(min_value=0, max_value=10**9), st.text(alphabet="それは次のとおり。わけで\n、", max_size=30))
def test_the_text_before_a_marker_does_not_matter(number: int, before: str) -> None:
    assert extract_robust(f"{before}7×9=63。{before}答えは{number}個です。") == number


@given(st.text())
def test_any_text_has_a_finite_number_or_none(text: str) -> None:
    found = extract_robust(text)
    assert found is None or abs(found) < float("inf")
    extract_paper(text)


@given(st.text(alphabet="0123456789.,-=/ 十百万〇分の½²答えは:円です。\n$マイナス{}\\#frac"))
def test_texts_of_numbers_do_not_raise(text: str) -> None:
    extract_robust(text)
    extract_paper(text)


PIECES = [
    "\n",
    " ",
    "\n#",
    "9",
    "9,",
    "9,999",
    "一",
    "千",
    "1万",
    "マイナス",
    "マイナス ",
    "(",
    "答え",
    "答え ",
    "答えは",
    "-",
    "=",
    ".",
    "1/",
]
PIECES += ["9'999", "9e9", "9^9", "9 ^", "one half ", "｛9｝", "。【補足】", "例9:"]
PIECES += ["分の", "9分の", "\\frac{9}{", "「", "３", "½", "answer ", "です", "問題", "*"]


@pytest.mark.parametrize("piece", quick_and_slow(PIECES, quick=12))
def test_ten_thousand_times_the_same_piece_are_read_through(piece: str) -> None:
    for text in (piece * 10_000, f"答えは{piece * 10_000}", f"{piece * 10_000}x"):
        found = extract_robust(text)
        assert found is None or abs(found) < float("inf")


DISAGREEMENTS = Path(__file__).with_name("harness_disagreements.tsv")


def read_disagreements(model: str) -> dict[int, tuple[float | None, float | None]]:
    """Return what the harness and we read, by the completion's place in its file."""
    with DISAGREEMENTS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["model"] == model]
    return {int(row["index"]): (_number(row["harness"]), _number(row["ours"])) for row in rows}


def _number(cell: str) -> float | None:
    return None if cell == "none" else float(cell)


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


@pytest.mark.parametrize("model", ["gpt3", "cyberagent-open-calm-7b"])
def test_every_disagreement_with_the_harness_is_known(model: str) -> None:
    (result,) = json.loads(public_file(f"mgsm_ja_completions/{model}.json").read_text(encoding="utf-8"))[
        "results"
    ].values()
    found = {}
    for index, row in enumerate(result["details"]):
        theirs = None if row["extracted_answer"] == "[invalid]" else float(row["extracted_answer"])
        ours = extract_robust(row["completion"])
        if ours != theirs:
            found[index] = theirs, ours if ours is None else float(f"{ours:.15g}")
    assert found == read_disagreements(model)


def test_no_known_disagreement_costs_a_right_answer() -> None:
    with DISAGREEMENTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 36
    for row in rows:
        assert row["reads_better"] in ("ours", "harness", "neither")
        assert _number(row["harness"]) != float(row["gold"])
