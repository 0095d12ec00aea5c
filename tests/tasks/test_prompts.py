"""Prompts word for word, with the places of pictures, options and questions in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import TaskError
from evovlm.tasks.pictures import EncodedPicture
from evovlm.tasks.prompts import PLACE, PROMPTS, SLOT, ask
from evovlm.tasks.sample import Sample

PICTURE = EncodedPicture(content=b"", where="nowhere")


def asked(question: str, *, pictures: int = 0, choices: tuple[str, ...] = ()) -> Sample:
    return Sample(id="7", question=question, references=("1",), images=(PICTURE,) * pictures, choices=choices)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=list(PROMPTS))
def test_every_prompt_has_one_slot_and_at_most_one_place(prompt: str) -> None:
    assert prompt.count(SLOT) == 1
    assert prompt.count(PLACE) <= 1


@pytest.mark.parametrize(
    ("prompt", "pictures", "text"),
    [
        (
            "ja-alpaca-cot",
            0,
            "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を日本語で記述してください。"
            "一歩一歩考えましょう。\n\n### 指示:\n問い\n\n### 応答:",
        ),
        (
            "ja-shisa-vqa",
            1,
            "[INST] <<SYS>>\nあなたは役立つ、偏見がなく、検閲されていないアシスタントです。"
            "与えられた画像を下に、質問に答えてください。\n<</SYS>>\n\n<image>\n問い [/INST]",
        ),
        ("llava-mistral", 1, "<s>[INST] <image>\n問い [/INST]"),
        ("heron", 0, "##human: 問い\n##gpt: "),
        (
            "shisa-gamma",
            0,
            "[INST] <<SYS>>\nあなたは役立つ、偏見がなく、検閲されていないアシスタントです。\n<</SYS>>\n\n問い [/INST]",
        ),
        (
            "wizardmath",
            0,
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\n問い\n\n### Response: Let's think step by step.",
        ),
        ("abel", 0, "Question:\n問い\nAnswer:\n"),
    ],
)
def test_the_published_prompts_stand_word_for_word(prompt: str, pictures: int, text: str) -> None:
    assert ask(prompt, asked("問い", pictures=pictures)).text == text


def test_the_image_slot_is_replaced_by_all_pictures_in_order() -> None:
    question = ask("zoo-picture-ja", asked("どちら?", pictures=3))
    assert question.text == "<image>\n<image>\n<image>\n質問: どちら?\n答え:"
    assert len(question.images) == 3


def test_a_sample_without_pictures_leaves_no_place_behind() -> None:
    assert ask("zoo-picture-ja", asked("何?")).text == "質問: 何?\n答え:"
    assert ask("{input} <image>", asked("何?")).text == "何? "


def test_a_prompt_without_a_place_refuses_pictures_by_its_name() -> None:
    for prompt in ("heron", "jsvlm", "ja-alpaca-cot", "{input}"):
        with pytest.raises(TaskError, match=rf"'{prompt}' has no place for a picture .* sample 7 has 2"):
            ask(prompt, asked("何?", pictures=2))


@given(question=st.lists(st.sampled_from(["<image>", "<ima", "ge>", "<", " ", "何"]), max_size=8).map("".join))
def test_no_question_makes_a_place_for_a_picture(question: str) -> None:
    for prompt in ("zoo-picture-ja", "zoo-problem-ja", "chat"):
        pictures = 1 if prompt == "zoo-picture-ja" else 0
        assert ask(prompt, asked(question, pictures=pictures)).text.count(PLACE) == pictures


def test_a_question_loses_its_tags_and_nothing_else() -> None:
    assert ask("chat", asked("<image> <image> 二つの<image>駅 は?")).text == "二つの駅 は?"
    assert ask("chat", asked(" <image 1> は? \n")).text == " <image 1> は? \n"


def test_a_question_with_braces_is_inserted_unchanged() -> None:
    assert ask("zoo-problem-ja", asked("{input} と {x}")).text == "問題: {input} と {x}\n答え:"


def test_options_follow_the_question_in_every_prompt() -> None:
    options = "何?\nA. 犬\nB. 猫\n\n与えられた選択肢の中から最も適切な回答のアルファベットを直接記入してください。"
    sample = asked("何?", choices=("犬", "猫<image>"))
    assert ask("chat", sample).text == options
    assert ask("zoo-problem-ja", sample).text == f"問題: {options}\n答え:"


def test_chat_leaves_all_to_the_model_s_own_template() -> None:
    question = ask("chat", asked("何?", pictures=2))
    assert (question.text, question.chat, len(question.images)) == ("何?", True, 2)


def test_an_unknown_prompt_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"Unknown prompt 'herron'. The prompts are: chat, .*heron"):
        ask("herron", asked(""))
