"""The prompts that questions are put into, word for word: `{input}` is where the question goes, `<image>` the pictures.

Zoo problem: "問題: 店にあめが41個あります。6個売れました。あと何個ありますか。\\n答え:"

`<image>` in a prompt stands for all pictures of a sample, one after another, each on a line of its own; where a sample
has none, it goes, with the end of its line. A question's own `<image>` is taken out, as it names no picture. The
options of a multiple-choice question follow it, a line each, and then what is to be answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import TaskError
from evovlm.tasks.sample import ImageSource, Sample, letter_of

# The question is put in with str.replace: it may hold braces of its own.
SLOT = "{input}"
PLACE = "<image>"
CHAT = "chat"
"""The prompt that is the model's own chat template."""
PLAIN = "plain"
"""The prompt that is the question itself, behind its pictures; for single questions only."""

# JMMMU's own words.
CHOOSE_A_LETTER = "与えられた選択肢の中から最も適切な回答のアルファベットを直接記入してください。"
SHORT_ANSWER = "質問に対する回答を単語や短いフレーズで記入してください。"

_SHISA = "あなたは役立つ、偏見がなく、検閲されていないアシスタントです。"
_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

PROMPTS: Mapping[str, str] = {
    # The templates of SakanaAI/evolutionary-model-merge (Apache-2.0). Where nothing follows the last
    # colon, nothing may. The tokenizer adds the BOS token; only `llava-mistral` spells it out, as its original does.
    "ja-alpaca-cot": (
        "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を日本語で記述してください。"
        "一歩一歩考えましょう。\n\n### 指示:\n{input}\n\n### 応答:"
    ),
    "ja-shisa-vqa": (
        f"[INST] <<SYS>>\n{_SHISA}与えられた画像を下に、質問に答えてください。\n<</SYS>>\n\n<image>\n{{input}} [/INST]"
    ),
    "llava-mistral": "<s>[INST] <image>\n{input} [/INST]",
    # These two name no place for the picture: their models take it beside the text.
    # Trailing blanks after the headings are part of the original.
    "jsvlm": (
        "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"
        "### 指示: \n与えられた画像を下に、質問に答えてください。\n\n### 入力: \n{input}\n\n### 応答: "
    ),
    "heron": "##human: {input}\n##gpt: ",
    # Those of the paper's source models: shisa-gamma-7b-v1, WizardMath, Abel (as OpenCompass has it).
    "shisa-gamma": f"[INST] <<SYS>>\n{_SHISA}\n<</SYS>>\n\n{{input}} [/INST]",
    "wizardmath": f"{_ALPACA}\n\n### Instruction:\n{{input}}\n\n### Response: Let's think step by step.",
    "abel": "Question:\n{input}\nAnswer:\n",
    # ja-alpaca-cot in English.
    "en-alpaca-cot": f"{_ALPACA} Let's think step by step.\n\n### Instruction:\n{{input}}\n\n### Response:",
    # What the embedded models were trained on.
    "zoo-problem-ja": "問題: {input}\n答え:",
    "zoo-problem-en": "Problem: {input}\nAnswer:",
    "zoo-picture-ja": "<image>\n質問: {input}\n答え:",
    "zoo-picture-en": "<image>\nQuestion: {input}\nAnswer:",
}
_WITH_PLACES = tuple(name for name, template in PROMPTS.items() if PLACE in template)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked.

    `text` is the whole prompt, in which `<image>` stands where each of the `images` goes; with `chat` it is the user's
    message alone, for the model's own chat template (with `system` as the system message), the pictures before it.
    """

    text: str
    images: tuple[ImageSource, ...] = ()
    chat: bool = False
    system: str | None = None


def ask(prompt: str, sample: Sample) -> Question:
    """Return the question of a sample, put into the prompt of that name, or into a template that holds `{input}`.

    Raises TaskError for an unknown prompt, and for pictures in a prompt that has no place for them.
    """
    question = _question(sample)
    if prompt == CHAT:
        return Question(text=question, images=sample.images, chat=True)
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
    """Raise TaskError for an unknown prompt, or one without a place for the pictures of a picture task."""
    if prompt != CHAT and PLACE not in template_of(prompt) and with_pictures:
        raise TaskError(
            f"The prompt {_shown(prompt)} has no place for a picture ({PLACE}). "
            f"Choose one that has: {CHAT}, {', '.join(_WITH_PLACES)}."
        )


def template_of(prompt: str) -> str:
    """Return the template of that name, or the prompt itself where it is one. Raises TaskError for an unknown name."""
    if SLOT in prompt:
        return prompt
    if prompt not in PROMPTS:
        raise TaskError(
            f"There is no prompt {_shown(prompt)}. The prompts are: {CHAT}, {', '.join(sorted(PROMPTS))}. "
            f"A template of your own holds {SLOT}."
        )
    return PROMPTS[prompt]


def without_places(text: str) -> str:
    """Return a text without any `<image>`, even one that taking out another leaves behind."""
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
    options = [f"{letter_of(index)}. {choice}" for index, choice in enumerate(sample.choices)]
    lines = [sample.question, *options, *(["", CHOOSE_A_LETTER] if options else ())]
    return without_places("\n".join(lines))


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 40 else f"{prompt[:40]}...")
