"""Thought and answer in the texts of reasoning models, by tags, channels and settings."""

import pytest

from evovlm.errors import TaskError
from evovlm.thoughts import (
    ThoughtMarks,
    check_reasoning,
    marks_for,
    marks_of,
    parse_reasoning,
    reasoning_of,
    reasoning_text,
    split_thought,
)

HARMONY = (
    "<|channel|>analysis<|message|>2 or 3?<|end|><|start|>assistant<|channel|>commentary<|message|>5<|end|>"
    "<|start|>assistant<|channel|>final<|message|>答えは4<|return|>"
)


@pytest.mark.parametrize(
    ("text", "thought", "final"),
    [
        (
            "<think>A <think>inner</think> still outer, 3</think>答えは5です。",
            "A inner still outer, 3",
            "答えは5です。",
        ),
        ("<think>\n<think>twice opened</think>答えは5", "<think>twice opened", "答えは5"),
        ("<think>a 1</think>まず3個。<think>8?</think>答えは7です。", "a 1\n8?", "まず3個。答えは7です。"),
        ("<think>x</think>HTMLの`<think>`は思考。答えは3", "x", "HTMLの`<think>`は思考。答えは3"),
        ('<think>It prints "</think>", so 4</think>答えは4', 'It prints "</think>", so 4', "答えは4"),
        ("<think>x</think>```\n<think>\n</think>\n```\n答えは3", "x", "```\n<think>\n</think>\n```\n答えは3"),
        ("＜think＞9か8＜/think＞答えは９です", "9か8", "答えは９です"),
        ("<seed:think>\nx\n</seed:think>答えは2", "x", "答えは2"),
        ("[THINK]x[/THINK]答えは3", "x", "答えは3"),
        ("<longcat_think>x</longcat_think>答えは3", "x", "答えは3"),
        ("<scratchpad>x</scratchpad>答えは3", "x", "答えは3"),
        ("◁think▷x◁/think▷答えは5", "x", "答えは5"),
        ("<|inner_prefix|>x<|inner_suffix|>答えは5", "x", "答えは5"),
        ("<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>6<|END_RESPONSE|>", "x", "6"),
        ("<think>x</think>\n<answer>7</answer>", "x", "\n7"),
        (HARMONY, "2 or 3?\n5", "答えは4"),
        ("analysisWe need 4.assistantfinal答えは4です。", "We need 4.", "答えは4です。"),
        ("思考の終わりは`</think>`と書きます。答えは8", "", "思考の終わりは`</think>`と書きます。答えは8"),
        ("まず8か9</think>答えは6", "まず8か9", "答えは6"),
        ("a</think>b</think>答えは5", "ab", "答えは5"),
        ("<think></think>答えは1", "", "答えは1"),
        ("<think>x</think>", "x", ""),
        ("はい。<think>1</think>答えは5", "1", "はい。答えは5"),
        ("答えは7です。<think>8?</think>", "8?", "答えは7です。"),
        ("答えは7です。\n<think>or is it", "or is it", "答えは7です。"),
        ("タグは<think>で始まる。答えは3", "", "タグは<think>で始まる。答えは3"),
        ("答えは5です。", "", "答えは5です。"),
        ("", "", ""),
    ],
)
def test_the_answer_is_what_is_outside_of_thoughts(text: str, thought: str, final: str) -> None:
    parts = split_thought(text)
    assert (parts.thought, parts.final) == (thought, final)
    if parts.begins is not None and "RESPONSE" not in text and "answer" not in text and "return" not in text:
        assert final.endswith(text[parts.begins :])


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nまず16-3",
        "<think>\n<think>まず",
        "<think>a</think>\n<think>b",
        "<|channel|>analysis<|message|>2 or",
        "analysisWe need to",
        '<think>The tag "</think>" ends it. 16-',
    ],
)
def test_a_thought_that_never_ends_has_no_answer(text: str) -> None:
    parts = split_thought(text)
    assert (parts.final, parts.begins) == (None, None)
    assert parts.thought


def test_a_setting_says_what_marks_a_thought() -> None:
    text = "<think>3</think>答えは<reflect>4</reflect>5"
    assert split_thought(text, marks_of("none")).final == text
    assert split_thought(text, marks_of(("<reflect>", "</reflect>"))).final == "<think>3</think>答えは5"
    assert split_thought(HARMONY, marks_of("think")).final == HARMONY
    assert split_thought(HARMONY, marks_of("harmony")).final == "答えは4"
    assert split_thought(text, marks_of("harmony")).final == text


def test_auto_follows_the_vocabulary_and_the_chat_template() -> None:
    mentions = "<thought>は思考</thought>答えは3"
    qwen = marks_for("auto", tokens=("<think>", "</think>"), template="")
    assert split_thought(mentions, qwen).final == mentions
    assert split_thought("<think>2</think>3", qwen).final == "3"
    assert split_thought("<think>2</think>3", marks_for("auto", tokens=(), template="{{ '</think>' }}")).final == "3"
    oss = marks_for("auto", tokens=("<|channel|>", "<|message|>"), template="")
    assert split_thought(HARMONY, oss).final == "答えは4"
    assert split_thought(mentions, oss).final == mentions
    assert marks_for("auto", tokens=("<s>",), template="plain") == ThoughtMarks()
    assert marks_for("none", tokens=("<think>",), template="") == marks_of("none")


def test_a_prompt_may_begin_the_thought() -> None:
    marks = ThoughtMarks()
    assert marks.opened("質問\n<think>\n") == "<think>\n"
    assert marks.opened("質問\n<think>\n\n</think>\n\n") == ""
    assert marks.opened("<think>質問") == ""
    assert marks.opened("<|start|>assistant<|channel|>analysis<|message|>") == "<|channel|>analysis<|message|>"
    assert marks_of("none").opened("<think>\n") == ""
    assert marks_of(("<r>", "</r>")).opened("考えて<r>") == "<r>"


def test_a_setting_is_written_and_read_back() -> None:
    for reasoning in ("auto", "think", "harmony", "none", ("<a, b>", '"</a>')):
        assert reasoning_of(reasoning_text(reasoning)) == reasoning
    assert parse_reasoning("<r>,</r>") == ("<r>", "</r>")
    assert parse_reasoning("think") == "think"
    assert parse_reasoning(reasoning_text(("<a, b>", "</a>"))) == ("<a, b>", "</a>")


@pytest.mark.parametrize("setting", ["thnk", "a,", ",", "x,x"])
def test_another_setting_is_refused(setting: str) -> None:
    with pytest.raises(TaskError, match="reasoning: "):
        parse_reasoning(setting)
    with pytest.raises(TaskError):
        check_reasoning("sometimes")


def test_a_text_of_many_tags_is_read_in_time() -> None:
    assert split_thought("<think>```</think>" * 50_000 + "5").final == "5"
    assert split_thought("`<think>" * 100_000).final is not None
    assert split_thought("</think>" * 100_000 + "5").final == "5"
    assert split_thought("analysis" + "commentary" * 100_000).final is not None
