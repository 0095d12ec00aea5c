"""The prompts that questions are put into, word for word; `{input}` is where the question goes.

Zoo problem: "問題: 店にあめが41個あります。6個売れました。あと何個ありますか。\\n答え:"
"""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import TaskError
from evovlm.tasks.sample import ImageSource, Sample

# The question is put in with str.replace: it may hold braces of its own.
SLOT = "{input}"

PROMPTS: Mapping[str, str] = {
    # The templates of SakanaAI/evolutionary-model-merge (Apache-2.0). Where nothing follows the last
    # colon, nothing may. The tokenizer adds the BOS token; only `llava-mistral` spells it out, as its original does.
    "ja-alpaca-cot": (
        "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を日本語で記述してください。"
        "一歩一歩考えましょう。\n\n### 指示:\n{input}\n\n### 応答:"
    ),
    "ja-shisa-vqa": (
        "[INST] <<SYS>>\nあなたは役立つ、偏見がなく、検閲されていないアシスタントです。"
        "与えられた画像を下に、質問に答えてください。\n<</SYS>>\n\n<image>\n{input} [/INST]"
    ),
    "llava-mistral": "<s>[INST] <image>\n{input} [/INST]",
    # These two name no place for the picture: their models take it beside the text.
    # Trailing blanks after the headings are part of the original.
    "jsvlm": (
        "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"
        "### 指示: \n与えられた画像を下に、質問に答えてください。\n\n### 入力: \n{input}\n\n### 応答: "
    ),
    "heron": "##human: {input}\n##gpt: ",
    # What the embedded models were trained on.
    "zoo-problem-ja": "問題: {input}\n答え:",
    "zoo-problem-en": "Problem: {input}\nAnswer:",
    "zoo-picture-ja": "<image>\n質問: {input}\n答え:",
    "zoo-picture-en": "<image>\nQuestion: {input}\nAnswer:",
}


CHAT = "chat"
"""The prompt that is the model's own chat template."""


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
    """Return the question of a sample, put into the prompt of that name. Raises TaskError for an unknown prompt."""
    if prompt == CHAT:
        return Question(text=sample.question, images=sample.images, chat=True)
    if prompt not in PROMPTS:
        raise TaskError(f"There is no prompt '{prompt}'. The prompts are: {CHAT}, {', '.join(sorted(PROMPTS))}.")
    return Question(text=PROMPTS[prompt].replace(SLOT, sample.question), images=sample.images)
