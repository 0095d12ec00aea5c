import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.tasks.metrics.japanese import GATES, fasttext_share, script_share

# p(ja) of lid.176.ftz, computed once with fastText itself.
FASTTEXT = [
    ("これは日本語の文章です。", 0.9998),
    ("The answer is 12.", 0.0008),
    ("UFO", 0.0097),
    ("青", 0.7186),
    ("猫", 0.0097),
    ("赤いバス", 1.0),
    ("東京タワー", 0.996),
    ("12", 0.0097),
    ("", 0.0097),
    ("まず、3×4=12です。答えは12です。", 0.9995),
    ("3*4=12, so 12 apples. 答えは12", 0.0531),
    ("中文的句子在这里。", 0.095),
]


@pytest.mark.parametrize(("text", "share"), FASTTEXT)
def test_fasttext_gives_the_published_shares(text: str, share: float) -> None:
    assert fasttext_share(text) == pytest.approx(share, abs=6e-4)


def test_fasttext_deletes_newlines() -> None:
    assert fasttext_share("これは\n日本語の\n文章です。") == fasttext_share("これは日本語の文章です。")


@pytest.mark.parametrize(
    ("text", "japanese"),
    [
        ("猫", True),
        ("ｶﾀｶﾅ", True),
        ("まず、3×4=12です。答えは12です。", True),
        ("\\frac{3}{4}が答えです", True),
        ("UFO", False),
        ("12+7=19", False),
        ("", False),
        ("3*4=12, so 12 apples. 答えは12", False),
        ("고양이입니다 猫", False),
        ("白いTシャツ", True),
    ],
)
def test_the_script_gate(text: str, japanese: bool) -> None:
    assert GATES["script"].passes(text) is japanese


@given(st.text())
def test_the_share_is_a_share(text: str) -> None:
    assert 0.0 <= script_share(text) <= 1.0


@given(st.text(), st.text(alphabet="0123456789+-×÷=.,。、()% "))
def test_equations_do_not_change_the_share(text: str, equation: str) -> None:
    # A "<" in the text could open a tag that the equation closes, a backslash a command.
    plain = text.replace("<", "").replace("\\", "")
    assert script_share(plain + equation) == script_share(plain)


def test_loading_the_model_prints_nothing_and_needs_no_torch() -> None:
    code = (
        "import sys; from evovlm.tasks.metrics.japanese import fasttext_share; fasttext_share('猫');"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
