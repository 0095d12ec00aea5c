"""Answers as today's models write them, with the number that a person reads: kinds of wording, some of each kind."""

import pytest

from evovlm.tasks.metrics.answers import extract_paper, extract_robust
from evovlm.tasks.metrics.choices import read_choice
from evovlm.tasks.metrics.final_part import without_next_turn
from evovlm.thoughts import ThoughtMarks, split_thought

WORDINGS: dict[str, list[tuple[str, float | None]]] = {
    "latex": [
        ("\\boxed{1{,}080}", 1080),
        ("合計は$2{,}400$円になります。", 2400),
        ("\\boxed{12\\,000}", 12000),
        ("\\boxed{12~000}", 12000),
        ("\\boxed{10,\\!000}", 10000),
        ("$1\\!,\\!080$", 1080),
        ("答えは $12\\ 000$ 円", 12000),
        ("\\(\\boxed{70\\,000}\\) ドルです。", 70000),
        ("\\boxed{540\\text{円}}", 540),
        ("\\boxed{\\text{540円}}", 540),
        ("\\boxed{\\$540}", 540),
        ("\\boxed{-\\$5.50}", -5.5),
        ("\\boxed{- 5}", -5),
        ("\\boxed{−5}", -5),
        ("\\boxed{\\text{-}5}", -5),
        ("$-\\boxed{5}$", -5),
        ("\\boxed{-\\frac34}", -0.75),
        ("\\boxed{\\frac{-3}{4}}", -0.75),
        ("\\boxed{\\frac{3}{-4}}", -0.75),
        ("\\boxed{▲5}", -5),
        ("\\boxed{x = -5}", -5),
        ("\\boxed{50\\%}", 50),
        ("\\boxed{18} 個で、1個あたり2ドル", 18),
        ("\\boxed{18 \\text{ m}^2}", 18),
        ("答えは$18\\,\\mathrm{m}^{2}$です", 18),
    ],
    "fraction": [
        ("\\boxed{\\frac34}", 0.75),
        ("\\boxed{\\frac{1,080}{2}}", 540),
        ("\\boxed{\\frac{1{,}080}{2}}", 540),
        ("\\boxed{\\frac 3 4}", 0.75),
        ("\\boxed{\\frac{ 3 }{ 4 }}", 0.75),
        ("\\boxed{\\frac3{4}}", 0.75),
        ("\\boxed{\\dfrac{3}4}", 0.75),
        ("\\boxed{\\tfrac{3}{4}}", 0.75),
        ("\\boxed{\\cfrac{3}{4}}", 0.75),
        ("\\boxed{{3 \\over 4}}", 0.75),
        ("\\boxed{2\\frac{1}{2}}", 2.5),
        ("\\boxed{2\\frac12}", 2.5),
        ("\\boxed{\\frac{1.5}{2}}", 0.75),
        ("\\boxed{\\left(\\frac{3}{4}\\right)}", 0.75),
        ("\\boxed{1.5 \\times 10^3}", 1500),
        ("答えは $1.2 \\times 10^{4}$ です", 12000),
        ("答えは3 / 4です", 0.75),
        ("答えは1/1,000です", 0.001),
        ("-(3/4)", -0.75),
        ("答えは(-3)/4です", -0.75),
        ("マイナス4分の3", -0.75),
        ("1,000分の1", 0.001),
        ("4 分の 3", 0.75),
        ("The answer is 2 and 1/2.", 2.5),
    ],
    "remark": [
        ("答えは36個（=12×3）です。", 36),
        ("The answer is 36 (= 12 x 3).", 36),
        ("5 + 13 = 18個 (1箱あたり6個が3箱)", 18),
        ("したがって、18個残ります（最初は25個）。", 18),
        ("So the total is 18 (5 apples and 13 oranges).", 18),
        ("18個 [5個+13個]", 18),
        ("18個です〔内訳は5個と13個〕", 18),
        ("18個です。（内訳は5個と13個です。）", 18),
        ("18 (5 (red) and 13 (green))", 18),
        ("18個（最初は25", 18),
        ("残りは(18)個です", 18),
        ("25個あり、残りは(18)個", 18),
        ("25個から7個食べたので(25-7=18)個残ります", 18),
        ("10 x 12 (=120)", 120),
        ("答え (18個)", 18),
        ("答えは18個（最初は25個でした。）です。", 18),
        ("答えは18（1箱6個×3箱）個です", 18),
        ("(5+13) × 2 = 36", 36),
        ("2時間（120分）", 2),
        ("全部で$18 (5 at $2 and 8 at $1)", 18),
        ("合計は3(5+1)=18", 18),
    ],
    "next turn": [
        ("答えは18です。\n\n### 入力:\n太郎は5個もらいました。\n\n### 応答:\n答えは5です。", 18),
        ("答えは18です。\nユーザー: もう一問\nアシスタント: 答えは5です。", 18),
        ("18\n\nQ: Tom has 5.\nA: 7", 18),
        ("答えは18です。\n\n次の問題: 太郎は5個。答えは5です。", 18),
        ("答えは18です。<|im_end|>\n<|im_start|>user\n5個<|im_end|>", 18),
        ("答えは18です。\nUser: 5?\nAssistant: 答えは5です。", 18),
        ("18個\n\n### Instruction:\nHe has 5.\n### Response:\n5", 18),
        ("18個\n\nHuman: 5", 18),
        ("18個\n\n【問題】5個", 18),
        ("18個\n\n【問題2】\n5個", 18),
        ("18個\n\n問2. 5個", 18),
        ("18個\n\n問題2: 5個", 18),
        ("18個\n\n**問題2**: 5個", 18),
        ("18個です。次の問題に進みましょう。5個", 18),
        ("18個</s>5", 18),
        ("18\n[INST] 5 [/INST] 7", 18),
        ("18\n\n指示:\n5個", 18),
        ("18\n\nQuestion 2: He has 5. Answer: 7", 18),
        ("18\n\nExercise 2. He has 5", 18),
        ("18\n\n練習問題: 5個", 18),
        ("18\n\nシステム: 5", 18),
        ("18\n\n別の問題：5個", 18),
        ("18\n<start_of_turn>user\n5", 18),
        ("18<|eot_id|><|start_header_id|>user<|end_header_id|>5", 18),
        ("18個\n\n例題2：5個", 18),
        ("18個\n\n### 指示\n5個", 18),
        ("問題: 3個と4個。\n答え: 7個", 7),
        ("以下のように計算します。\n入力: 3, 4\n答えは7です", 7),
    ],
    "heading": [
        ("【答え】\n18ドル\n\n【解説】\n16-3-4=9個の卵が残ります。1個2ドルです。", 18),
        ("【答え】18ドル\n【解説】16-3-4=9個。1個2ドル。", 18),
        ("【解答】\n16-3-4=9\n9×2=18\n18ドルです", 18),
        ("## 答え\n18ドル\n\n## 解説\n16-3-4=9個。1個2ドル。", 18),
        ("**答え**\n18ドル\n\n**解説**\n1個2ドル。", 18),
        ("**答え** 18ドル\n\n解説: 1個2ドル。", 18),
        ("答え\n18円\n\n解説\n1個2円です", 18),
        ("■答え\n18円\n■解説\n1個2円です", 18),
        ("[答え]\n18円\n[解説]\n1個2円です", 18),
        ("18ドルです。\n\n【解説】\n16-3-4=9…1個2ドルです。", 18),
        ("18\n\n解説: 1個2ドルです。", 18),
        ("## Answer\n18 dollars\n\n## Explanation\n2 dollars each.", 18),
        ("**Answer:** 18\n\nExplanation: 2 each.", 18),
        ("【最終回答】18", 18),
        ("<answer>18</answer> because 2 each", 18),
        ("【解説】16-3-4=9個。9×2=18。\n【答え】18ドル", 18),
    ],
    "numeral": [
        ("全部で四十二ページです", 42),
        ("答えはゼロです", 0),
        ("The answer is zero.", 0),
        ("従って答えは 1 000 円です", 1000),
        ("答えは▲5です", -5),
        ("答えは△1,200円です", -1200),
        ("答えはゼロ", 0),
        ("残りはゼロ個です", 0),
        ("全部で三匹です", 3),
        ("全部で七通りです", 7),
        ("全部で百二十三人分になります", 123),
        ("四階建てです", 4),
        ("二十五パーセントです", 25),
        ("三組です", 3),
        ("合計で千五百ポイントでした", 1500),
        ("The answer is twenty-five.", 25),
        ("The answer is one hundred and five dollars.", 105),
        ("There are twelve apples.", 12),
        ("The answer is negative five.", -5),
        ("答えは12 345 678です", 12345678),
        ("残額は1、000円です", 1000),
        ("答えはマイナス五です", -5),
    ],
    "denied": [
        ("答えは5ではなく7です", 7),
        ("答えは7です。5ではありません。", 7),
        ("7個です。5個ではありません。", 7),
        ("答えは18ではないでしょうか", 18),
        ("The answer is not 5 but 7.", 7),
        ("The answer is 7, not 5.", 7),
    ],
    "mixed": [
        ("答え：１，０８０円", 1080),
        ("\\boxed{\\frac{1}{2}\\text{個}}", 0.5),
        ("\\boxed{1/2}", 0.5),
        ("答えは\\(\\frac{3}{4}\\)です", 0.75),
        ("答えは−５です", -5),
        ("＜答え＞\n7\n＜解説＞\n5", 7),
        ("解答：7\n解説：5個と2個", 7),
        ("答え: 7（税込み1,080円）", 7),
        ("7 [note: 5 left]", 7),
        ("答えは7です。\nアシスタント: 5", 7),
        ("7\n<|user|>\n5", 7),
        ("7個\n\n次の質問: 5個?", 7),
        ("二千五百円です", 2500),
        ("答えは零です", 0),
        ("三千五百二十一メートルです", 3521),
        ("五つです", 5),
        ("答えはマイナス三です", -3),
        ("答えは-三です", -3),
        ("残りは七です", 7),
        ("答えは二分の一です", 0.5),
        ("答えは1 1/2です", 1.5),
        ("答えは１と１／２です", 1.5),
        ("\\boxed{1 \\frac{1}{2}}", 1.5),
        ("$\\frac{12}{5}$ 時間", 2.4),
        ("\\boxed{\\frac{\\text{12}}{5}}", 2.4),
        ("\\boxed{ \\$ 1{,}080 }", 1080),
        ("\\boxed{1{,}080.50}", 1080.5),
        ("\\boxed{1{,}080 \\text{ yen}}", 1080),
        ("合計 $1{,}234{,}567$ 円", 1234567),
        ("答え 36個(12個×3箱)", 36),
        ("36（12×3）", 36),
        ("答えは、36（＝12×3）個です。", 36),
        ("So he has 36 left (out of 48).", 36),
        ("合計36個になります（12個入りの箱が3箱）", 36),
        ("36個。(12×3=36、検算36÷3=12)", 36),
        ("答えは△3です", -3),
        ("答えは▲1,500円です", -1500),
        ("利益は▲5万円です", -50000),
        ("答えは0です", 0),
        ("正解：ゼロ円", 0),
        ("The answer is Zero", 0),
        ("zero", 0),
        ("There are no apples left, so the answer is zero apples.", 0),
        ("六人です", 6),
        ("二十四時間です", 24),
        ("百台です", 100),
        ("八頭です", 8),
        ("十二種類です", 12),
        ("九か所です", 9),
        ("六枠です", 6),
        ("四校です", 4),
        ("五鉢です", 5),
        ("三棚です", 3),
        ("答えは18です。\n\nInput: 5\nOutput: 7", 18),
        ("答えは18です。\n\n### Input:\n5", 18),
        ("答えは18です。\n\n[問題]\n5個", 18),
        ("18です。\n\n問題２\n5個", 18),
        ("答えは18です。\n質問：5個?", 18),
        ("答えは18です。\nHuman: 5", 18),
        ("The answer is 18.\n\nProblem: 5 apples. The answer is 5.", 18),
        ("The answer is 18.\nuser\n5?\nassistant\nThe answer is 5.", 18),
        ("答えは18です。<|endoftext|>答えは5です。", 18),
        ("答えは18です。\n\nQ2: 5?\nA2: 5", 18),
        ("答えは18です。\n---\n問題: 5", 18),
        ("【回答】18個\n【理由】5個", 18),
        ("【結論】18個\n【理由】5個", 18),
        ("答え：18\n途中式：9×2", 18),
    ],
    "other": [
        ("#### ステップ1: 3+4=7\n#### ステップ2: 9*2=18\n18ドル", 18),
        ("#### 1. 計算\n9*2=18\n18ドルです", 18),
        ("#### 18", 18),
        ("答え→18", 18),
        ("一方、花子は一歩一歩進みました", None),
        ("八百屋に行きました", None),
        ("五十嵐さん", None),
        ("わかりません。\n\n問題: 5個\n答え: 5", None),
        ("わかりません。\nUser: 5", 5),
        ("三角形と四角形", None),
        ("I cannot answer that one.", None),
        ("100~200円", 200),
        ("答えは100〜200円です", 200),
        ("答えは $5^2 = 25$", 25),
        ("\\boxed{70{,}000}", 70000),
        ("$$\\boxed{70{,}000}$$", 70000),
        ("\\boxed{1\\,234\\,567}", 1234567),
        ("\\boxed{\\mathbf{12}}", 12),
        ("\\boxed{12}円", 12),
        ("\\[ \\boxed{12} \\]", 12),
        ("\\boxed{\\dfrac{12}{5}\\text{ 時間}}", 2.4),
        ("答えは ¾ です", 0.75),
        ("答えは４分の３です", 0.75),
        ("答えは３／４です", 0.75),
    ],
}


@pytest.mark.parametrize(("text", "number"), [row for rows in WORDINGS.values() for row in rows])
def test_the_number_of_an_answer_is_read_as_a_person_reads_it(text: str, number: float | None) -> None:
    assert extract_robust(text) == (number if number is None else pytest.approx(number))


def test_the_papers_extractor_stays_as_it_was() -> None:
    read = [
        extract_paper(text) for text in ("\\boxed{1{,}080}", "答えは▲5です", "18 (5)", "答えはゼロです", "18\n\nQ: 5")
    ]
    assert read == [80.0, 5.0, 5.0, None, 5.0]


CITIES = ("東京", "大阪", "京都", "奈良")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("AではなくCです", "C"),
        ("答えはAではなくCです", "C"),
        ("Aではなく、Cです。", "C"),
        ("AじゃなくてC", "C"),
        ("(A)ではなく(C)です", "C"),
        ("「A」ではなく「C」", "C"),
        ("The answer is not A but C.", "C"),
        ("It is C, not A.", "C"),
        ("C rather than A", "C"),
        ("C (not A)", "C"),
        ("東京ではなく京都です", "C"),
        ("正解はAでなくC", "C"),
        ("Aではありません。Cです。", "C"),
        ("Aは誤りで、Cが正しい", "C"),
        ("Aは不正解です。正解はC", "C"),
        ("Bではないでしょうか", "B"),
        ("答えはBです。\n\n次の問題: どれ?\n答えはA", "B"),
        ("【答え】\nC\n【解説】A、Bは違います", "C"),
        ("【答え】C\n\n【解説】Aは首都です", "C"),
        ("C\n\nUser: A?", "C"),
        ("Aではない。Bでもない。Cだ。", "C"),
        ("Aを選びません。Cです", "C"),
        ("AでもBでもなくC", "C"),
        ("B、Dではなく、C", "C"),
        ("答えはCであってAではない", "C"),
        ("\\boxed{C}", "C"),
        ("\\boxed{\\text{C}}", "C"),
        ("**C**", "C"),
        ("C. 京都", "C"),
        ("not A, but C", "C"),
        ("Aの東京ではなく、Cの京都です", "C"),
    ],
)
def test_the_option_of_an_answer_is_read_as_a_person_reads_it(text: str, letter: str) -> None:
    assert read_choice(text, CITIES) == letter


@pytest.mark.parametrize(
    ("text", "thought", "final"),
    [
        ("答えは7です", "", "答えは7です"),
        ("<think>8?</think>\n7です", "8?", "\n7です"),
        ("<think>\n\n</think>\n\n7です", "", "\n\n7です"),
        ("8かな。\n</think>\n7です", "8かな。", "\n7です"),
        ("<thinking>8?</thinking>7です", "8?", "7です"),
        ("[THINK]8?[/THINK]7です", "8?", "7です"),
        ("◁think▷8?◁/think▷7です", "8?", "7です"),
        ("<|begin_of_thought|>8?<|end_of_thought|><|begin_of_solution|>7です<|end_of_solution|>", "8?", "7です"),
        ("<|channel|>analysis<|message|>8?<|end|><|start|>assistant<|channel|>final<|message|>7です", "8?", "7です"),
        ("<|channel|>final<|message|>7です<|return|>", "", "7です"),
        ("analysis8?assistantfinal7です", "8?", "7です"),
        ("<think>8?", "8?", None),
        ("<think>8?</think>\n<think>9?", "8?\n9?", None),
        ("7です\n<think>9?", "9?", "7です"),
        ("<|channel|>analysis<|message|>8?", "8?", None),
        ("HTMLの<think>タグ", "", "HTMLの<think>タグ"),
    ],
)
def test_a_thought_is_separated_from_the_final_part(text: str, thought: str, final: str | None) -> None:
    parts = split_thought(text)
    assert (parts.thought, parts.final) == (thought, final)


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<|channel|>", "analysis", "\nQ:", "(", "(9", "9)", "5では", "A、", "{", "\\text{"]
)
def test_ten_thousand_times_the_same_piece_are_split(piece: str) -> None:
    for text in (piece * 10_000, f"7{piece * 10_000}x"):
        split_thought(text)
        without_next_turn(text)
        extract_robust(text)
        read_choice(text, CITIES)


def test_a_prompt_that_begins_a_thought_is_recognised() -> None:
    assert ThoughtMarks().opened("<|im_start|>assistant\n<think>\n") == "<think>\n"
    assert ThoughtMarks().opened("<|im_start|>assistant\n<think>\n\n</think>\n\n") == ""
    assert ThoughtMarks().opened("答え:") == ""


def test_special_tokens_of_thoughts_are_kept_in_texts() -> None:
    harmony = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
    assert ThoughtMarks().special((*harmony, "<|return|>")) == set(harmony)
    assert ThoughtMarks().special(("[THINK]", "[/THINK]", "</s>")) == {"[THINK]", "[/THINK]"}
    # Phi ends its turns with <|end|>, without channels.
    assert not ThoughtMarks().special(("<|end|>", "<|user|>"))
