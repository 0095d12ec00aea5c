"""The table of tasks: one row for each."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from evovlm.errors import TaskError
from evovlm.foreign_code import ForeignCode
from evovlm.plugins import PluginTable
from evovlm.recipes.problems import did_you_mean
from evovlm.tasks.harness_name import HarnessName, is_harness_name
from evovlm.tasks.leaderboards import ROWS as LEADERBOARD_ROWS
from evovlm.tasks.metrics.library_metric import PREFIX, metric_code
from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.metrics.table import check_scoring
from evovlm.tasks.own.task_file import is_own_task, load_own_task
from evovlm.tasks.prompts import CHAT
from evovlm.tasks.sets import (
    cvqa_ja,
    emoji,
    gsm8k,
    gsm8k_ja,
    heron_bench,
    ja_multi_image_vqa,
    ja_vg_vqa,
    ja_vlm_bench,
    jdocqa,
    jmmmu,
    mawps_ja,
    mecha_ja,
    mgsm,
    msvamp_ja,
    stair_captions,
    word_problems,
)
from evovlm.tasks.task import Decoding, Split, Task, TaskSettings

_BOTH = frozenset({Split.SEARCH, Split.REPORT})
_SEARCH = frozenset({Split.SEARCH})
_REPORT = frozenset({Split.REPORT})
# The paper's decoding: SakanaAI/evolutionary-model-merge, configs/llm and configs/vlm.
_PAPER_MATH = Decoding(max_new_tokens=1024, stop=("Instruction:", "Instruction", "Response:", "Response"))
_PAPER_PICTURES = Decoding(max_new_tokens=512, beams=5, repetition_penalty=1.5)
# Cheaper decoding for searches: a worked solution is shorter than this limit, and one beam ranks candidates almost like
# five.
_CHEAPER_MATH = {"search": replace(_PAPER_MATH, max_new_tokens=384)}
_CHEAPER_PICTURES = {"search": replace(_PAPER_PICTURES, max_new_tokens=64, beams=1)}
_SHORT = Decoding(max_new_tokens=64)
_LETTER = Scoring(metric="multiple_choice")
# Known to have been trained on Visual Genome's Japanese questions or on STAIR Captions.
_SAW_THEM = (
    "stabilityai/japanese-stable-vlm",
    "stabilityai/japanese-instructblip-alpha",
    "cyberagent/llava-calm2-siglip",
)

_WORD_PROBLEMS_JA = Task(
    name="word_problems_ja",
    description="word problems of one to three steps, in Japanese",
    prompt="zoo-problem-ja",
    scoring=Scoring(metric="accuracy", gate="script"),
    decoding=Decoding(max_new_tokens=72),
    load=word_problems.load_ja,
    is_local=True,
    needs_images=False,
    splits=_BOTH,
)
_EMOJI_JA = Task(
    name="emoji_ja",
    description="what small pictures of emoji show, in Japanese",
    prompt="zoo-picture-ja",
    scoring=Scoring(metric="rouge_l_ja", gate="script"),
    decoding=Decoding(max_new_tokens=24),
    load=emoji.load_ja,
    is_local=True,
    needs_images=True,
    splits=_BOTH,
)
_GSM8K_JA = Task(
    name="gsm8k_ja",
    description="GSM8K test 250-1318 in Japanese, the paper's search set",
    prompt="ja-alpaca-cot",
    scoring=Scoring(metric="accuracy", gate="script"),
    decoding=_PAPER_MATH,
    cheaper=_CHEAPER_MATH,
    load=gsm8k_ja.load,
    needs_images=False,
    splits=_SEARCH,
    hub_id=gsm8k_ja.DATA.hub_id,
    licence="Apache-2.0",
    sizes={Split.SEARCH: 1069},
)
_MGSM_JA = Task(
    name="mgsm_ja",
    description="MGSM in Japanese, the paper's report set",
    prompt="ja-alpaca-cot",
    scoring=Scoring(metric="accuracy", extractor="paper", gate="fasttext"),
    decoding=_PAPER_MATH,
    cheaper=_CHEAPER_MATH,
    load=mgsm.load_ja,
    needs_images=False,
    splits=_REPORT,
    hub_id=mgsm.JA.hub_id,
    licence="CC BY-SA 4.0",
    sizes={Split.REPORT: 250},
)
_MGSM_EN = replace(
    _MGSM_JA,
    name="mgsm_en",
    description="the same questions in English, as in GSM8K",
    prompt="en-alpaca-cot",
    scoring=Scoring(metric="accuracy"),
    load=mgsm.load_en,
)
_JA_VG_VQA = Task(
    name="ja_vg_vqa",
    description="JA-VG-VQA-500, the first question about each photograph",
    prompt="ja-shisa-vqa",
    scoring=Scoring(metric="rouge_l_ja", gate="fasttext"),
    decoding=_PAPER_PICTURES,
    cheaper=_CHEAPER_PICTURES,
    load=ja_vg_vqa.load,
    needs_images=True,
    splits=_BOTH,
    hub_id=ja_vg_vqa.DATA.hub_id,
    licence="CC BY 4.0",
    contaminated=_SAW_THEM,
    sizes={Split.SEARCH: 1000, Split.REPORT: 500},
)
_JA_VLM_BENCH = replace(
    _JA_VG_VQA,
    name="ja_vlm_bench",
    description="JA-VLM-Bench-In-the-Wild, photographs of Japan",
    load=ja_vlm_bench.load,
    splits=_REPORT,
    hub_id=ja_vlm_bench.DATA.hub_id,
    licence="Unsplash licence (pictures)",
    contaminated=(),
    sizes={Split.REPORT: 50},
)
_MECHA_JA = Task(
    name="mecha_ja",
    description="MECHA-ja, Japanese culture, multiple choice",
    prompt=CHAT,
    scoring=_LETTER,
    decoding=_SHORT,
    load=mecha_ja.load,
    needs_images=True,
    splits=_REPORT,
    hub_id=mecha_ja.DATA.hub_id,
    licence="see its card",
)
_JMMMU = replace(
    _MECHA_JA,
    name="jmmmu",
    description="JMMMU, college subjects, its multiple-choice questions",
    load=jmmmu.load,
    hub_id=jmmmu.DATA.hub_id,
    licence="per picture",
)

_ROWS = (
    _WORD_PROBLEMS_JA,
    replace(
        _WORD_PROBLEMS_JA,
        name="word_problems_en",
        description="the same word problems in English",
        prompt="zoo-problem-en",
        scoring=Scoring(metric="accuracy"),
        load=word_problems.load_en,
    ),
    _EMOJI_JA,
    replace(
        _EMOJI_JA,
        name="emoji_en",
        description="the same pictures in English",
        prompt="zoo-picture-en",
        scoring=Scoring(metric="rouge_l_ja"),
        load=emoji.load_en,
    ),
    _GSM8K_JA,
    _MGSM_JA,
    _MGSM_EN,
    replace(
        _MGSM_EN,
        name="gsm8k",
        description="GSM8K in English: train to search with, test to report on",
        load=gsm8k.load,
        splits=_BOTH,
        hub_id=gsm8k.DATA.hub_id,
        licence="MIT",
        sizes={Split.SEARCH: 7473, Split.REPORT: 1319},
    ),
    replace(
        _GSM8K_JA,
        name="msvamp_ja",
        description="MSVAMP in Japanese, short word problems that are not GSM8K's",
        load=msvamp_ja.load,
        hub_id=msvamp_ja.DATA.hub_id,
        licence="MIT",
        sizes={Split.SEARCH: 1000},
    ),
    replace(
        _GSM8K_JA,
        name="mawps_ja",
        description="MAWPS adapted to Japanese, one-step word problems (GitHub)",
        load=mawps_ja.load,
        hub_id=mawps_ja.DATA.hub_id,
        sizes={Split.SEARCH: 1000},
    ),
    _JA_VG_VQA,
    replace(
        _JA_VG_VQA,
        name="ja_vg_vqa_all",
        description="JA-VG-VQA-500, every question about each photograph",
        load=ja_vg_vqa.load_all,
        sizes={},
    ),
    _JA_VLM_BENCH,
    replace(
        _JA_VLM_BENCH,
        name="ja_multi_image_vqa",
        description="JA-Multi-Image-VQA, each question about several photographs",
        load=ja_multi_image_vqa.load,
        hub_id=ja_multi_image_vqa.DATA.hub_id,
        licence="see its card",
        sizes={Split.REPORT: 55},
    ),
    replace(
        _JA_VLM_BENCH,
        name="heron_bench",
        description="Japanese Heron-Bench, compared with GPT-4's answers by ROUGE-L",
        scoring=Scoring(metric="rouge_l_ja", gate="script"),
        load=heron_bench.load,
        hub_id=heron_bench.DATA.hub_id,
        licence="public domain, CC BY 1.0 to 2.0 (pictures)",
        sizes={Split.REPORT: 103},
    ),
    replace(
        _JA_VG_VQA,
        name="stair_captions",
        description="STAIR Captions, the closest of five captions of a photograph",
        scoring=Scoring(metric="rouge_l_ja", gate="script"),
        load=stair_captions.load,
        hub_id=stair_captions.DATA.hub_id,
        sizes={Split.SEARCH: 82783, Split.REPORT: 40504},
    ),
    _JMMMU,
    replace(
        _JMMMU,
        name="jmmmu_open",
        description="JMMMU, its questions without options",
        scoring=Scoring(metric="exact_match"),
        load=jmmmu.load_open,
    ),
    _MECHA_JA,
    replace(
        _MECHA_JA,
        name="mecha_ja_rotated",
        description="MECHA-ja, each question four times with its options rotated",
        load=mecha_ja.load_rotated,
    ),
    replace(
        _MECHA_JA,
        name="cvqa_ja",
        description="CVQA, its questions about Japan, multiple choice",
        load=cvqa_ja.load,
        hub_id=cvqa_ja.DATA.hub_id,
        licence="per picture",
    ),
    replace(
        _MECHA_JA,
        name="jdocqa",
        description="JDocQA, questions about pages of Japanese documents",
        scoring=Scoring(metric="jdocqa"),
        decoding=Decoding(max_new_tokens=256),
        load=jdocqa.load,
        hub_id=jdocqa.DATA.hub_id,
        licence="CC BY-SA 4.0",
    ),
)
TASKS: Mapping[str, Task] = PluginTable(
    "evovlm.tasks", {task.name: task for task in (*_ROWS, *LEADERBOARD_ROWS)}, row_type=Task
)


def get_task(name: str) -> Task:
    """Return the task of that name, or of the YAML file or folder of that path.

    Raises TaskError naming the closest name when the task does not exist, ConfigError with every problem of the file.
    """
    if is_own_task(name):
        return load_own_task(Path(name), taken=TASKS)
    if name not in TASKS:
        kind = "folder" if Path(name).is_dir() else "file"
        hint = f" For the {kind} of that name, write ./{name}." if Path(name).exists() else ""
        raise TaskError(
            f"Unknown task '{name}'{did_you_mean(name, TASKS, listed=False)} `evovlm tasks` lists them.{hint}"
        )
    return TASKS[name]


def check_task_names(names: Iterable[str], *, split: Split, **settings: Unpack[TaskSettings]) -> None:
    """Raise TaskError or ConfigError for an unknown task, or one without that split, or with other wrong settings.

    Reads no data. Tasks of the harness are not checked here.
    """
    for name in names:
        if not is_harness_name(name):
            task = get_task(name)
            task.check_split(split)
            check_scoring(task.asked(**settings).scoring)


def data_notes_of(names: Iterable[str], *, split: Split, data: Mapping[str, Path]) -> tuple[str, ...]:
    """Return what was decided about the user's own data of these tasks, whose places may be in `data`.

    Raises TaskError for data that is missing or broken.
    """
    tasks = {name: get_task(name) for name in names if not is_harness_name(name)}
    return tuple(
        f"{task.name}, {split} split: {note}"
        for name, task in tasks.items()
        for note in task.notes(split, data.get(name))
    )


def code_of_tasks(names: Iterable[str]) -> tuple[ForeignCode, ...]:
    """Return the files that scoring these tasks would run: metric scripts and task files of the harness; runs nothing.

    Raises TaskError or ConfigError for a task or file that does not exist.
    """
    found: list[ForeignCode] = []
    for name in names:
        if is_harness_name(name):
            found += HarnessName.parse(name).code
        elif (metric := get_task(name).scoring.metric).startswith(PREFIX):
            found += metric_code(metric)
    return tuple(dict.fromkeys(found))
