"""The wording of questions in the Swallow LLM Leaderboard v2 (swallow-llm/swallow-evaluation-instruct, 3520211).

次の選択問題に答えてください。出力の最後の行には「回答: $選択肢」（鉤括弧は書かない）という形でA、B、C、Dから選んだ...
"""

from collections.abc import Sequence

from evovlm.tasks.sample import letter_of

STEP_BY_STEP = "ステップバイステップで考えてから回答してください。"
_BOXED = "出力の最後の行は、次の形式にしてください。\n\n回答: $\\boxed{ANSWER}$\n\n`ANSWER` には、"


def choice_wording(question: str, options: Sequence[str], *, letters: str, thinking: str = STEP_BY_STEP) -> str:
    """Return a multiple-choice question; `letters` says which option to write: `A、B、C、Dから選んだ選択肢を`."""
    listed = "\n".join(f"{letter_of(index)}) {option}" for index, option in enumerate(options))
    return (
        "次の選択問題に答えてください。出力の最後の行には「回答: $選択肢」（鉤括弧は書かない）という形で"
        f"{letters}答えてください。{thinking}\n\n{question}\n\n{listed}"
    )


def boxed_wording(task: str, *, holds: str, thinking: str = "") -> str:
    """Return the instruction of a question whose answer is written in a box; the question follows it."""
    return f"{task}\n{_BOXED}{holds}が入ります。\n\n{thinking}"
