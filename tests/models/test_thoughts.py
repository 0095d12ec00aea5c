"""Thoughts of real pico models: the prompt that begins one, and the special tokens that end one."""

from dataclasses import replace
from pathlib import Path

import pytest

from evovlm.models.chat import thought_marks
from evovlm.models.decoding.generation import answer_texts, generate
from evovlm.models.loading import LoadedModel, load_model
from evovlm.models.prompt import Prompt, prepare_prompts
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import score_answer
from evovlm.tasks.prompts import Question
from evovlm.tasks.sample import Sample
from evovlm.tasks.task import Decoding
from evovlm.thoughts import NOT_FINISHED, marks_of, split_thought
from tests.pico import pico_llm


@pytest.fixture
def llm(tmp_path: Path) -> LoadedModel:
    return load_model(pico_llm(tmp_path / "llm"), device="cpu")


def test_a_thought_that_the_chat_template_begins_belongs_to_the_answer(llm: LoadedModel) -> None:
    llm.tokenizer.chat_template = "{{ messages[0]['content'] }}{{ '<think>\\n' }}"
    (prompt,) = prepare_prompts(llm, [Question(text="3+4?", chat=True)])
    assert isinstance(prompt, Prompt)
    assert prompt.thought == "<think>\n"
    (text,) = generate(llm, [prompt], decoding=Decoding(max_new_tokens=4)).texts
    (bare,) = generate(llm, [replace(prompt, thought="")], decoding=Decoding(max_new_tokens=4)).texts
    assert text == f"<think>\n{bare}"
    answer = score_answer(Scoring(metric="accuracy"), Sample(id="1", question="3+4?", references=("7",)), text)
    assert answer.unscored == NOT_FINISHED


def test_a_thought_that_the_prompt_ends_leaves_the_answer_as_it_is(llm: LoadedModel) -> None:
    llm.tokenizer.chat_template = "{{ messages[0]['content'] }}<think>\n\n</think>\n\n"
    (prompt,) = prepare_prompts(llm, [Question(text="3+4?", chat=True)])
    assert isinstance(prompt, Prompt)
    assert prompt.thought == ""


@pytest.mark.parametrize(
    ("marks", "written"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]8?[/THINK]7"),
        (
            ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"],
            "<|channel|>analysis<|message|>8?<|end|><|start|>assistant<|channel|>final<|message|>7",
        ),
    ],
)
def test_special_tokens_that_end_a_thought_are_kept(llm: LoadedModel, marks: list[str], written: str) -> None:
    tokenizer = llm.tokenizer
    tokenizer.add_tokens(marks, special_tokens=True)
    rows = [[*tokenizer(written, add_special_tokens=False).input_ids, tokenizer.eos_token_id]]
    (text,) = answer_texts(llm, rows, thought_marks(llm))
    assert text == written
    assert (split_thought(text).thought, split_thought(text).final) == ("8?", "7")


def test_other_special_tokens_are_left_out(llm: LoadedModel) -> None:
    llm.tokenizer.add_tokens(["<|end|>"], special_tokens=True)
    rows = [llm.tokenizer("7<|end|>", add_special_tokens=False).input_ids]
    assert answer_texts(llm, rows, thought_marks(llm)) == ["7"]


def test_a_written_prompt_may_begin_a_thought_too(llm: LoadedModel) -> None:
    (prompt,) = prepare_prompts(llm, [Question(text="3+4?\n<think>\n")])
    assert isinstance(prompt, Prompt)
    assert prompt.thought == "<think>\n"
    (prompt,) = prepare_prompts(llm, [Question(text="3+4?\n<think>\n")], marks=marks_of("none"))
    assert isinstance(prompt, Prompt)
    assert prompt.thought == ""


def test_values_of_a_question_reach_the_chat_template(llm: LoadedModel) -> None:
    llm.tokenizer.chat_template = "{{ messages[0]['content'] }}{% if enable_thinking %}<think>{% endif %}{{ effort }}"
    texts = []
    for template in ({"enable_thinking": True}, {"enable_thinking": False, "effort": "low"}):
        (prompt,) = prepare_prompts(llm, [Question(text="3+4?", chat=True, template=template)])
        assert isinstance(prompt, Prompt)
        texts.append(llm.tokenizer.decode(prompt.ids, skip_special_tokens=True))
    assert texts == ["3+4?<think>", "3+4?low"]


def test_a_stop_string_ends_an_answer_only_behind_its_thought(llm: LoadedModel) -> None:
    (prompt,) = prepare_prompts(llm, [Question(text="3+4?")])
    assert isinstance(prompt, Prompt)
    free = Decoding(max_new_tokens=40)
    (whole,) = generate(llm, [prompt], decoding=free, marks=marks_of("none")).texts
    letters = [each for each in dict.fromkeys(whole) if each.isascii() and each.isprintable() and each.strip()]
    end, stop = letters[1], letters[0]
    marks = marks_of(("", end))
    (text,) = generate(llm, [prompt], decoding=replace(free, stop=(stop,)), marks=marks).texts
    begins = split_thought(whole, marks).begins
    assert begins is not None
    assert whole.index(stop) < whole.index(end)
    expected = whole.find(stop, begins)
    assert text == (whole if expected < 0 else whole[:expected])
    (cut,) = generate(llm, [prompt], decoding=replace(free, stop=(stop,)), marks=marks_of("none")).texts
    assert cut == whole[: whole.index(stop)]
    # A thought that is still going on is not ended.
    opened = replace(prompt, thought="<think>")
    (text,) = generate(llm, [opened], decoding=replace(free, stop=(stop,))).texts
    assert text == f"<think>{whole}"


def test_without_reasoning_all_special_tokens_are_left_out(llm: LoadedModel) -> None:
    llm.tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    rows = [llm.tokenizer("[THINK]8?[/THINK]7", add_special_tokens=False).input_ids]
    assert answer_texts(llm, rows, thought_marks(llm, "none")) == ["8?7"]
    assert answer_texts(llm, rows, thought_marks(llm)) == ["[THINK]8?[/THINK]7"]
    assert thought_marks(llm).tags == (("[THINK]", "[/THINK]"),)
