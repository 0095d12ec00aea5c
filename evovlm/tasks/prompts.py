"""The prompts that questions are put into, word for word; `{input}` is where the question goes.

Zoo problem: "問題: 店にあめが41個あります。6個売れました。あと何個ありますか。\\n答え:"
"""

from collections.abc import Mapping

IMAGE_MARK = "<image>"

PROMPTS: Mapping[str, str] = {
    # The templates of SakanaAI/evolutionary-model-merge. Nothing follows the last colon, not even a space.
    "ja-alpaca-cot": (
        "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を日本語で記述してください。"
        "一歩一歩考えましょう。\n\n### 指示:\n{input}\n\n### 応答:"
    ),
    "ja-shisa-vqa": (
        "[INST] <<SYS>>\nあなたは役立つ、偏見がなく、検閲されていないアシスタントです。"
        "与えられた画像を下に、質問に答えてください。\n<</SYS>>\n\n<image>\n{input} [/INST]"
    ),
    # Trailing blanks after the headings are part of the original.
    "jsvlm": (
        "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n"
        "### 指示: \n与えられた画像を下に、質問に答えてください。\n\n### 入力: \n{input}\n\n### 応答: "
    ),
    "llava-mistral": "<s>[INST] <image>\n{input} [/INST]",
    # What the embedded models were trained on.
    "zoo-problem-ja": "問題: {input}\n答え:",
    "zoo-problem-en": "Problem: {input}\nAnswer:",
    "zoo-picture-ja": "<image>\n質問: {input}\n答え:",
    "zoo-picture-en": "<image>\nQuestion: {input}\nAnswer:",
}


def fill_prompt(name: str, question: str) -> str:
    """Return the prompt of that name with the question in it. Raises KeyError for a name that is not in PROMPTS."""
    return PROMPTS[name].replace("{input}", question)
