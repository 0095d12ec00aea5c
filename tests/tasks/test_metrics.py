import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from evovlm.errors import TaskError
from evovlm.tasks.metrics.japanese import GATES
from evovlm.tasks.metrics.rouge import bootstrap_mid, rouge_l, words
from evovlm.tasks.metrics.scoring import Answer, Scoring
from evovlm.tasks.metrics.table import METRICS, score_answer, score_answers
from evovlm.tasks.sample import Sample

PAPER_NUMBERS = Scoring(metric="accuracy", extractor="paper", gate="fasttext")
NUMBERS = Scoring(metric="accuracy")
NUMBERS_JA = Scoring(metric="accuracy", gate="script")
PAPER_WORDS = Scoring(metric="rouge_l_ja", gate="fasttext")
WORDS = Scoring(metric="rouge_l_ja")
WORDS_JA = Scoring(metric="rouge_l_ja", gate="script")


def asked(*references: str) -> Sample:
    return Sample(id="1", question="", references=references)


def score(scoring: Scoring, reference: str, text: str) -> Answer:
    return score_answer(scoring, asked(reference), text)


def answer(
    reference: str,
    text: str,
    *,
    score: float,
    ungated: float,
    japanese: bool = True,
    extracted: str | None = None,
    unscored: str | None = None,
) -> Answer:
    return Answer(
        sample=asked(reference),
        text=text,
        score=score,
        ungated=ungated,
        japanese=japanese,
        extracted=extracted,
        unscored=unscored,
    )


# Reference, answer, ROUGE-1, ROUGE-2, ROUGE-L.
ROUGE = [
    ("信号は青色です。", "信号の色は青です。", 0.666667, 0.2, 0.666667),
    (
        "桜の木の下で人々が花見をしています。",
        "人々が桜の下でピクニックを楽しんでいます。",
        0.714286,
        0.461538,
        0.571429,
    ),
    ("UFO", "UFO", 1.0, 0.0, 1.0),
    ("東京タワー", "これは東京タワーです。", 0.5, 0.333333, 0.5),
    ("青", "", 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("reference", "text", "one", "two", "longest"), ROUGE)
def test_rouge_gives_the_published_values(reference: str, text: str, one: float, two: float, longest: float) -> None:
    for metric, f1 in (("rouge_1_ja", one), ("rouge_2_ja", two), ("rouge_l_ja", longest)):
        found = score(Scoring(metric=metric, gate="fasttext"), reference, text)
        assert found.score == pytest.approx(f1, abs=1e-6)
        assert found.ungated == found.score


def test_the_mean_of_the_published_values() -> None:
    scores = [score(PAPER_WORDS, reference, text).score for reference, text, *_ in ROUGE]
    assert 100 * sum(scores) / len(scores) == pytest.approx(54.761905, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＡＢＣ１２３、ｶﾀｶﾅ　テスト", ("ABC", "123", "、", "カタカナ", "テスト")),
        ("東京タワーが写っています🗼", ("東京", "タワー", "が", "写っ", "て", "い", "ます")),
        ("白いTシャツ", ("白い", "T", "シャツ")),
    ],
)
def test_words(text: str, expected: tuple[str, ...]) -> None:
    assert words(text) == expected


def longest_common(left: tuple[str, ...], right: tuple[str, ...]) -> int:
    """The length of the longest common subsequence, by its definition."""
    if not left or not right:
        return 0
    if left[0] == right[0]:
        return 1 + longest_common(left[1:], right[1:])
    return max(longest_common(left[1:], right), longest_common(left, right[1:]))


@settings(max_examples=30, deadline=None)
@given(*[st.lists(st.sampled_from("犬猫と"), max_size=5).map("、".join)] * 2)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(reference: str, text: str) -> None:
    common, wanted, given_words = longest_common(words(reference), words(text)), words(reference), words(text)
    f1 = 2 * common / (len(wanted) + len(given_words)) if common else 0.0
    assert rouge_l(reference, text) == pytest.approx(f1)


def test_an_answer_in_another_language_scores_nothing_and_keeps_what_it_would_have_had() -> None:
    text = "The answer is 12."
    assert score(NUMBERS_JA, "12", text) == answer("12", text, score=0.0, ungated=1.0, japanese=False, extracted="12")
    assert score(PAPER_NUMBERS, "12", "The answer is 12.").score == 0.0
    assert score(NUMBERS, "12", "The answer is 12.").score == 1.0


def test_the_paper_misreads_comma_groups() -> None:
    text = "答えは1,000円です。"
    assert score(NUMBERS_JA, "1000", text) == answer("1000", text, score=1.0, ungated=1.0, extracted="1000")
    assert score(PAPER_NUMBERS, "1000", text) == answer("1000", text, score=0.0, ungated=0.0, extracted="0")


def test_without_a_number_nothing_is_extracted() -> None:
    nothing = answer("3", "わかりません", score=0.0, ungated=0.0, unscored="no number found")
    assert score(NUMBERS_JA, "3", "わかりません") == nothing


def test_fasttext_blanks_a_short_name_against_a_japanese_reference_and_the_script_gate_does_not() -> None:
    assert score(PAPER_WORDS, "赤い猫", "猫").score == 0.0
    assert score(PAPER_WORDS, "赤い猫", "猫").ungated > 0.0
    assert score(WORDS_JA, "赤い猫", "猫").score == score(PAPER_WORDS, "赤い猫", "猫").ungated


def test_a_reference_that_is_not_japanese_asks_for_no_japanese() -> None:
    for scoring in (PAPER_WORDS, WORDS_JA):
        assert score(scoring, "UFO", "UFO") == answer("UFO", "UFO", score=1.0, ungated=1.0)


def test_the_best_of_several_references_counts() -> None:
    assert score_answer(WORDS, asked("a red cat", "a dog"), "a dog").score == 1.0
    assert score_answer(NUMBERS, asked("3", "4"), "4").score == 1.0
    # The foreign reference alone may be matched in its language.
    mixed = score_answer(WORDS_JA, asked("天狗", "tengu"), "tengu")
    assert (mixed.score, mixed.ungated, mixed.japanese) == (1.0, 1.0, False)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(name for name, metric in METRICS.items() if metric.measure is not None)),
    st.sampled_from([None, *GATES]),
    st.text(max_size=40),
)
def test_every_metric_scores_every_text_within_bounds(metric: str, gate: str | None, text: str) -> None:
    found = score(Scoring(metric=metric, gate=gate), "B" if metric == "multiple_choice" else "12", text)
    assert 0.0 <= found.score <= found.ungated <= 1.0
    if METRICS[metric].binary:
        assert found.score in (0.0, 1.0)


def test_a_reference_that_is_not_a_number_is_an_error_of_the_data() -> None:
    with pytest.raises(TaskError, match="不明"):
        score(NUMBERS, "不明", "12")


@pytest.mark.parametrize(
    ("scoring", "hint"),
    [
        (Scoring(metric="acuracy"), "did you mean 'accuracy'"),
        (Scoring(metric="accuracy", extractor="papr"), "did you mean 'paper'"),
        (Scoring(metric="accuracy", gate="fastext"), "did you mean 'fasttext'"),
    ],
)
def test_an_unknown_part_of_a_scoring_is_an_error(scoring: Scoring, hint: str) -> None:
    with pytest.raises(TaskError, match=hint):
        score_answers(scoring, (asked("1"),), ("1",))


def test_a_metric_that_takes_a_model_says_how_to_open_it() -> None:
    with pytest.raises(TaskError, match="open_scorer"):
        score(Scoring(metric="clip_score"), "猫", "猫")


def test_without_references_nothing_is_right_and_nothing_exempts() -> None:
    found = score_answer(WORDS_JA, asked(), "tengu")
    assert (found.score, found.ungated, found.japanese) == (0.0, 0.0, False)


def test_the_bootstrap_median_is_near_the_mean_and_leaves_the_global_generator_alone() -> None:
    scores = [longest for *_, longest in ROUGE]
    np.random.seed(5)
    drawn = np.random.random(3)
    np.random.seed(5)
    mid = bootstrap_mid(scores)
    assert (np.random.random(3) == drawn).all()
    assert mid == bootstrap_mid(scores)
    assert mid == pytest.approx(0.54761905, abs=0.03)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mid([])


def test_the_bootstrap_median_is_that_of_a_plain_loop() -> None:
    scores = np.array([0.0, 0.2, 1.0, 0.7])
    generator = np.random.RandomState(42)
    means = [scores[generator.choice(np.arange(4), size=4)].mean() for _ in range(1000)]
    assert bootstrap_mid(scores.tolist()) == pytest.approx(np.percentile(means, 50))


def test_answers_are_scored_in_order() -> None:
    scores = score_answers(NUMBERS, (asked("1"), asked("2")), ("1", "1"))
    assert [each.score for each in scores] == [1.0, 0.0]


def test_a_scoring_says_what_it_is() -> None:
    assert (
        str(Scoring(metric="accuracy", extractor="paper", gate="fasttext"))
        == "accuracy, paper extractor, fasttext gate"
    )
    assert str(Scoring(metric="rouge_l_ja", extractor="paper")) == "rouge_l_ja, no gate"
    assert str(Scoring(metric="clip_score", clip_model="org/clip")) == "clip_score, org/clip, no gate"


@given(st.text(alphabet="abc ", max_size=60), st.text(alphabet="abc ", max_size=60))
def test_rouge_l_is_the_number_of_rouge_score(reference: str, text: str) -> None:
    class Words:
        def tokenize(self, each: str) -> list[str]:
            return list(words(each))

    expected = RougeScorer(["rougeL"], tokenizer=Words()).score(reference, text)["rougeL"].fmeasure
    assert rouge_l(reference, text) == expected


def test_a_text_that_mecab_cannot_split_is_unscored() -> None:
    long, short = (
        Sample(id="a", question="", references=("9" * 400_000,)),
        Sample(id="b", question="", references=("9",)),
    )
    for metric in ("rouge_l_ja", "rouge_1_ja", "rouge_2_ja", "jdocqa"):
        scoring = Scoring(metric=metric)
        for sample, text in ((long, "9"), (short, "9" * 400_000)):
            scored = score_answer(scoring, sample, text)
            assert scored.unscored == "a text of 400,000 characters, and at most 50,000 are compared by words"
            assert scored.score == 0.0
        assert score_answer(scoring, short, "9").unscored is None


def test_long_texts_are_compared_soon() -> None:
    assert rouge_l("猫は犬を見た。" * 5000, "犬は猫を見た。" * 5000) > 0.5
