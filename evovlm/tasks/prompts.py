"""The prompts, word for word: `{input}` is replaced by the question, `<image>` by the pictures.

Zoo problem: "問題: 店にあめが41個あります。6個売れました。あと何個ありますか。\\n答え:"

`<image>` in a prompt means all pictures of a sample, one per line; for a sample without pictures it is removed together
with its line end. An `<image>` in a question is removed, as it does not mean a picture. The options of a
multiple-choice question follow it, one per line, and then the instruction how to answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from evovlm.errors import TaskError
from evovlm.recipes.documents import Document
from evovlm.tasks.sample import ImageSource, Sample, letter_of

# The question is inserted with str.replace because it may contain braces.
SLOT = "{input}"
PLACE = "<image>"
CHAT = "chat"
"""The prompt that uses the model's chat template."""
PLAIN = "plain"
"""The prompt that is only the question, after its pictures; for single questions."""

# JMMMU's own words.
CHOOSE_A_LETTER = "与えられた選択肢の中から最も適切な回答のアルファベットを直接記入してください。"
SHORT_ANSWER = "質問に対する回答を単語や短いフレーズで記入してください。"

_SHISA = "あなたは役立つ、偏見がなく、検閲されていないアシスタントです。"
_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

PROMPTS: Mapping[str, str] = {
    # The templates of SakanaAI/evolutionary-model-merge (Apache-2.0). Do not add anything after a last colon. The
    # tokenizer adds the BOS token; only `llava-mistral` spells it out, as its original does.
    "ja-alpaca-cot": (
        "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を日本語で記述してください。"
        "一歩一歩考えましょう。\n\n### 指示:\n{input}\n\n### 応答:"
    ),
    "ja-shisa-vqa": (
        f"[INST] <<SYS>>\n{_SHISA}与えられた画像を下に、質問に答えてください。\n<</SYS>>\n\n<image>\n{{input}} [/INST]"
    ),
    "llava-mistral": "<s>[INST] <image>\n{input} [/INST]",
    # These two have no slot for the picture: their models take it separately from the text.
    # Trailing blanks after the headings are part of the original.
    "jsvlm": (
        "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"
        "### 指示: \n与えられた画像を下に、質問に答えてください。\n\n### 入力: \n{input}\n\n### 応答: "
    ),
    "heron": "##human: {input}\n##gpt: ",
    # The prompts of the paper's source models: shisa-gamma-7b-v1, WizardMath, Abel (as in OpenCompass).
    "shisa-gamma": f"[INST] <<SYS>>\n{_SHISA}\n<</SYS>>\n\n{{input}} [/INST]",
    "wizardmath": f"{_ALPACA}\n\n### Instruction:\n{{input}}\n\n### Response: Let's think step by step.",
    "abel": "Question:\n{input}\nAnswer:\n",
    # ja-alpaca-cot in English.
    "en-alpaca-cot": f"{_ALPACA} Let's think step by step.\n\n### Instruction:\n{{input}}\n\n### Response:",
    # The prompts on which the embedded models were trained.
    "zoo-problem-ja": "問題: {input}\n答え:",
    "zoo-problem-en": "Problem: {input}\nAnswer:",
    "zoo-picture-ja": "<image>\n質問: {input}\n答え:",
    "zoo-picture-en": "<image>\nQuestion: {input}\nAnswer:",
}
_WITH_PLACES = tuple(name for name, template in PROMPTS.items() if PLACE in template)


TemplateValue: TypeAlias = bool | int | float | str | None
# What a chat template gets from the question itself.
_OF_THE_QUESTION = frozenset(
    {"messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
    | {"padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"}
    | {"tokenizer_kwargs", "processor_kwargs", "tools", "documents"}
)


class ChatSettings(Document):
    """`chat:` how a task's questions are put into the model's chat template.

    `system` is the system message, `template` further values that the template reads: `{enable_thinking: false}`.
    """

    system: str | None = None
    template: dict[str, TemplateValue] = Field(default={})

    @field_validator("template")
    @classmethod
    def _is_free(cls, template: dict[str, TemplateValue]) -> dict[str, TemplateValue]:
        for name in template:
            if name in _OF_THE_QUESTION or not name.isidentifier():
                raise PydanticCustomError(
                    "template", "'{name}' cannot be set; name values that the chat template reads", {"name": name}
                )
        return template


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to a model.

    `text` is the whole prompt, with `<image>` at the position of each of the `images`. With `chat` it is only the
    user's message, for the model's chat template (with `system` as the system message, and the values in `template`),
    with the pictures before it.
    """

    text: str
    images: tuple[ImageSource, ...] = ()
    chat: bool = False
    system: str | None = None
    template: Mapping[str, TemplateValue] = field(default_factory=dict)


def ask(prompt: str, sample: Sample, *, chat: ChatSettings | None = None) -> Question:
    """Return the question of a sample in the prompt of that name, or in a template that contains `{input}`.

    `chat` belongs to the prompt CHAT. Raises TaskError for an unknown prompt, and for pictures in a prompt
    without `<image>`.
    """
    question = _question(sample)
    if prompt == CHAT:
        settings = chat or ChatSettings()
        return Question(
            text=question, images=sample.images, chat=True, system=settings.system, template=settings.template
        )
    template = template_of(prompt)
    if PLACE in template:
        template = _with_places(template, count=len(sample.images))
    elif sample.images:
        raise TaskError(
            f"The prompt {_shown(prompt)} has no place for a picture ({PLACE}), and sample {sample.id} has "
            f"{len(sample.images)}. Choose one that has: {CHAT}, {', '.join(_WITH_PLACES)}."
        )
    return Question(text=template.replace(SLOT, question), images=sample.images)


def check_prompt(prompt: str, *, with_pictures: bool) -> None:
    """Raise TaskError for an unknown prompt, or one without `<image>` for a task with pictures."""
    if prompt != CHAT and PLACE not in template_of(prompt) and with_pictures:
        raise TaskError(
            f"The prompt {_shown(prompt)} has no place for a picture ({PLACE}). "
            f"Choose one that has: {CHAT}, {', '.join(_WITH_PLACES)}."
        )


def template_of(prompt: str) -> str:
    """Return the template of that name, or the prompt itself if it is a template. Raises TaskError for other names."""
    if SLOT in prompt:
        return prompt
    if prompt not in PROMPTS:
        raise TaskError(
            f"Unknown prompt {_shown(prompt)}. The prompts are: {CHAT}, {', '.join(sorted(PROMPTS))}. "
            f"A template of your own contains {SLOT}."
        )
    return PROMPTS[prompt]


def without_places(text: str) -> str:
    """Return a text without any `<image>`, including one that appears when another is removed."""
    if PLACE not in text:
        return text
    while PLACE in text:
        text = text.replace(f"{PLACE} ", "").replace(PLACE, "")
    return text.strip()


def _with_places(template: str, *, count: int) -> str:
    if count:
        return template.replace(PLACE, "\n".join([PLACE] * count))
    return template.replace(f"{PLACE}\n", "").replace(PLACE, "")


def _question(sample: Sample) -> str:
    if sample.wording is not None:
        return without_places(sample.wording)
    options = [f"{letter_of(index)}. {choice}" for index, choice in enumerate(sample.choices)]
    lines = [sample.question, *options, *(["", CHOOSE_A_LETTER] if options else ())]
    return without_places("\n".join(lines))


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 40 else f"{prompt[:40]}...")
