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
from evovlm.thoughts import NOT_FINISHED, split_thought
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
