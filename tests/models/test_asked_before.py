"""Whether a model can be asked a task's questions is known from its folder, by the code that asks them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from evovlm.errors import NoChatTemplate, TaskError
from evovlm.models.asked_before import check_asked
from evovlm.models.loading import load_model
from evovlm.models.prompt import Unanswerable, prepare_prompts
from evovlm.tasks.prompts import Question
from tests.pico import pico_llm, pico_vlm

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


class Red:
    key = "red"

    def load(self) -> Image.Image:
        return Image.new("RGB", (8, 8), "red")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_llm(tmp_path_factory.mktemp("llm") / "llm")


def with_template(folder: Path, template: object, new: Path) -> Path:
    shutil.copytree(folder, new)
    config = json.loads((new / "tokenizer_config.json").read_text())
    (new / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return new


def test_a_chat_without_a_template_is_refused_as_in_a_search(llm: Path) -> None:
    chat = Question(text="3+4は?", chat=True)
    with pytest.raises(NoChatTemplate, match="has no chat template") as before:
        check_asked(llm, [chat], task="sums")
    with pytest.raises(NoChatTemplate) as then:
        prepare_prompts(load_model(llm, device="cpu"), [chat])
    assert str(before.value) == str(then.value)


@pytest.mark.parametrize(
    "template",
    [TEMPLATE, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]],
    ids=["one", "named"],
)
def test_a_chat_with_a_template_is_accepted(llm: Path, tmp_path: Path, template: object) -> None:
    folder = with_template(llm, template, tmp_path / "chat")
    assert check_asked(folder, [Question(text="3+4は?", chat=True)], task="sums") == ()


def test_a_template_that_fails_on_a_question_is_refused(llm: Path, tmp_path: Path) -> None:
    folder = with_template(llm, "{{ 1 // 0 }}", tmp_path / "zero")
    with pytest.raises(TaskError, match="chat template does not take the question"):
        check_asked(folder, [Question(text="3+4は?", chat=True)], task="sums")


def test_pictures_for_a_text_model_are_refused(llm: Path) -> None:
    with pytest.raises(TaskError, match="task photos: its samples have pictures"):
        check_asked(llm, [Question(text="<image>何?", images=(Red(),))], task="photos")


def test_questions_longer_than_the_context_are_counted(llm: Path) -> None:
    loaded = load_model(llm, device="cpu")
    longest = loaded.config.max_position_embeddings
    asked = [Question(text="あ" * (longest - 10)), Question(text="あ" * longest), Question(text="あ" * (longest + 5))]
    (warning,) = check_asked(llm, asked, task="long")
    found = [isinstance(each, Unanswerable) for each in prepare_prompts(loaded, asked)]
    assert found == [False, True, True]
    assert warning.startswith("task long: 2 of 3 questions are longer than")
    with pytest.raises(TaskError, match="every question is longer"):
        check_asked(llm, asked[1:], task="long")


def test_a_vlm_s_template_must_have_a_place_for_each_picture(tmp_path: Path) -> None:
    vlm = pico_vlm(tmp_path / "vlm")
    chat = Question(text="何?", images=(Red(),), chat=True)
    (vlm / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for part in m['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
    )
    assert check_asked(vlm, [chat], task="photos") == ()
    (vlm / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(TaskError, match="places for pictures in its chat template: 0, pictures: 1"):
        check_asked(vlm, [chat], task="photos")


def test_a_text_model_is_asked_without_torch(llm: Path, tmp_path: Path) -> None:
    folder = with_template(llm, TEMPLATE, tmp_path / "chat")
    code = (
        "import sys; from pathlib import Path; from evovlm.models.asked_before import check_asked\n"
        "from evovlm.tasks.prompts import Question\n"
        f"check_asked(Path({str(folder)!r}), [Question(text='a', chat=True)], task='t')\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
