"""One bad sample never ends a scoring: it is unscored, with the reason, and the others are answered."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from evovlm.errors import TaskError
from evovlm.models.loading import load_model
from evovlm.models.prompt import Prompt, Unanswerable, prepare_prompts
from evovlm.tasks.prompts import Question
from tests.pico import pico_llm, pico_vlm


class Shown:
    """A red picture of some size."""

    def __init__(self, width: int, height: int) -> None:
        self.key, self._size = f"{width}x{height}", (width, height)

    def load(self) -> Image.Image:
        return Image.new("RGB", self._size, "red")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("family", ["mistral3", "llava", "qwen2_5_vl", "gemma3"])
def test_a_picture_that_a_model_cannot_process_leaves_the_others(tmp_path: Path, family: str) -> None:
    loaded = load_model(pico_vlm(tmp_path / family, family=family), device="cpu")
    asked = [Question(text="<image>何色?", images=(Shown(*size),)) for size in ((1, 1), (40, 40), (4000, 1))]
    found = prepare_prompts(loaded, asked)
    assert isinstance(found[1], Prompt)
    for each in (found[0], found[2]):
        assert isinstance(each, Prompt) or each.reason


def test_one_pixel_in_a_mistral3_model_is_unscored_with_the_reason(tmp_path: Path) -> None:
    loaded = load_model(pico_vlm(tmp_path / "vlm", family="mistral3"), device="cpu")
    found = prepare_prompts(loaded, [Question(text="<image>何色?", images=(Shown(1, 1),))])
    assert isinstance(found[0], Unanswerable)
    assert "picture" in found[0].reason


def test_a_token_without_a_row_and_half_a_character_leave_the_others(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "llm"), device="cpu")
    loaded.tokenizer.add_tokens(["<new>"])
    asked = [Question(text=text) for text in ("3+4は?", "a <new> b", "\ud800")]
    fine, without_row, half = prepare_prompts(loaded, asked)
    assert isinstance(fine, Prompt)
    assert isinstance(without_row, Unanswerable)
    assert "the token '<new>'" in without_row.reason
    assert isinstance(half, Unanswerable)
    assert "half a character" in half.reason


def test_a_template_that_refuses_one_question_leaves_the_others(tmp_path: Path) -> None:
    loaded = load_model(pico_llm(tmp_path / "llm"), device="cpu")
    loaded.tokenizer.chat_template = "{{ messages[0]['content'] }}{{ 1 // (messages[0]['content'] | length - 1) }}"
    asked = [Question(text=text, chat=True) for text in ("3+4は?", "a")]
    fine, refused = prepare_prompts(loaded, asked)
    assert isinstance(fine, Prompt)
    assert isinstance(refused, Unanswerable)
    assert "chat template does not take the question" in refused.reason
    with pytest.raises(TaskError, match="does not take the question"):
        prepare_prompts(loaded, asked[1:])
