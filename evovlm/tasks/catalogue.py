"""The tasks there are, one row each."""

from collections.abc import Mapping

from evovlm.errors import TaskError
from evovlm.recipes.problems import did_you_mean
from evovlm.tasks import emoji, gsm8k_ja, ja_vg_vqa, ja_vlm_bench, mgsm_ja, word_problems
from evovlm.tasks.scoring import Scoring
from evovlm.tasks.task import Decoding, Split, Task

_BOTH = frozenset({Split.SEARCH, Split.REPORT})
# The paper's decoding: SakanaAI/evolutionary-model-merge, configs/llm and configs/vlm.
_PAPER_MATH = Decoding(max_new_tokens=1024, stop=("Instruction:", "Instruction", "Response:", "Response"))
_PAPER_PICTURES = Decoding(max_new_tokens=512, beams=5, repetition_penalty=1.5)

_ROWS = (
    Task(
        name="word_problems_ja",
        description="word problems of one to three steps, in Japanese (embedded)",
        prompt="zoo-problem-ja",
        scoring=Scoring(metric="accuracy", gate="script"),
        decoding=Decoding(max_new_tokens=72),
        load=word_problems.load_ja,
        needs_images=False,
        splits=_BOTH,
    ),
    Task(
        name="word_problems_en",
        description="the same word problems in English (embedded)",
        prompt="zoo-problem-en",
        scoring=Scoring(metric="accuracy"),
        decoding=Decoding(max_new_tokens=72),
        load=word_problems.load_en,
        needs_images=False,
        splits=_BOTH,
    ),
    Task(
        name="emoji_ja",
        description="what small pictures of emoji show, in Japanese (embedded)",
        prompt="zoo-picture-ja",
        scoring=Scoring(metric="rouge_l_ja", gate="script"),
        decoding=Decoding(max_new_tokens=24),
        load=emoji.load_ja,
        needs_images=True,
        splits=_BOTH,
    ),
    Task(
        name="emoji_en",
        description="the same pictures in English (embedded)",
        prompt="zoo-picture-en",
        scoring=Scoring(metric="rouge_l_ja"),
        decoding=Decoding(max_new_tokens=24),
        load=emoji.load_en,
        needs_images=True,
        splits=_BOTH,
    ),
    Task(
        name="gsm8k_ja",
        description="GSM8K test 250-1318 in Japanese, what the paper searches with (hub)",
        prompt="ja-alpaca-cot",
        scoring=Scoring(metric="accuracy", gate="script"),
        decoding=_PAPER_MATH,
        load=gsm8k_ja.load,
        needs_images=False,
        splits=frozenset({Split.SEARCH}),
    ),
    Task(
        name="mgsm_ja",
        description="MGSM in Japanese, what the paper reports (hub)",
        prompt="ja-alpaca-cot",
        scoring=Scoring(metric="accuracy", extractor="paper", gate="fasttext"),
        decoding=_PAPER_MATH,
        load=mgsm_ja.load,
        needs_images=False,
        splits=frozenset({Split.REPORT}),
    ),
    Task(
        name="ja_vg_vqa",
        description="JA-VG-VQA-500, one question about each photograph (hub)",
        prompt="ja-shisa-vqa",
        scoring=Scoring(metric="rouge_l_ja", gate="fasttext"),
        decoding=_PAPER_PICTURES,
        load=ja_vg_vqa.load,
        needs_images=True,
        splits=_BOTH,
    ),
    Task(
        name="ja_vlm_bench",
        description="JA-VLM-Bench-In-the-Wild, photographs of Japan (hub)",
        prompt="ja-shisa-vqa",
        scoring=Scoring(metric="rouge_l_ja", gate="fasttext"),
        decoding=_PAPER_PICTURES,
        load=ja_vlm_bench.load,
        needs_images=True,
        splits=frozenset({Split.REPORT}),
    ),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _ROWS}


def get_task(name: str) -> Task:
    """Return the task of that name. Raises TaskError naming the closest one when there is none."""
    if name not in TASKS:
        raise TaskError(f"There is no task '{name}'{did_you_mean(name, TASKS)} `evovlm tasks` lists them.")
    return TASKS[name]
