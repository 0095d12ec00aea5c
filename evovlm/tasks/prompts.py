"""The prompts that questions are put into, word for word; `{input}` is where the question goes.

Zoo problem: "問題: 店にあめが41個あります。6個売れました。あと何個ありますか。\\n答え:"
"""

from collections.abc import Mapping

from evovlm.errors import TaskError

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


def fill_prompt(name: str, question: str) -> str:
    """Return the prompt of that name with the question in it. Raises TaskError when there is no such prompt."""
    if name not in PROMPTS:
        raise TaskError(f"There is no prompt '{name}'. The prompts are: {', '.join(sorted(PROMPTS))}.")
    return PROMPTS[name].replace(SLOT, question)
