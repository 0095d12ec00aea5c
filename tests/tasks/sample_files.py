"""Small files of our own in the columns of each published set, and what is to be read from them."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from evovlm.tasks.sample import Sample
from evovlm.tasks.sets.stair_captions import QUESTION

EMOJI = {
    "artist": "openmoji",
    "background": ["#cfe3ff"],
    "objects": [{"emoji": "👺", "x": 30.5, "y": 33.0, "size": 44.0, "rotation": -12.0}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFile:
    """Rows as the hub has them (pictures as the numbers of their shades of red) and the samples that they make.

    Samples are given as Sample's keys; `images` as the shades of red.
    """

    rows: tuple[Mapping[str, Any], ...]
    samples: tuple[Mapping[str, Any], ...]
    pictures: tuple[str, ...] = ()

    def write_json_lines(self, path: Path) -> Path:
        """Write the rows with their pictures beside the file."""
        lines = []
        for row in self.rows:
            cells = {
                column: _saved(cell, path.parent) if column in self.pictures else cell for column, cell in row.items()
            }
            lines.append(json.dumps(cells, ensure_ascii=False) + "\n")
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def encoded_rows(self) -> list[dict[str, Any]]:
        """Return the rows with their pictures as the hub's Parquet has them."""
        return [
            {column: _encoded(cell) if column in self.pictures else cell for column, cell in row.items()}
            for row in self.rows
        ]

    def check(self, samples: tuple[Sample, ...]) -> None:
        """Compare what was read with what is to be read."""
        assert len(samples) == len(self.samples)
        for sample, expected in zip(samples, self.samples, strict=True):
            for key, value in expected.items():
                if key == "images":
                    shades = [image.load().getpixel((0, 0)) for image in sample.images]
                    assert shades == [(shade, 0, 0) for shade in value]
                else:
                    assert getattr(sample, key) == value, key


def red(shade: int) -> Image.Image:
    """Return a small red picture."""
    return Image.new("RGB", (4, 4), (shade, 0, 0))


def _saved(cell: Any, folder: Path) -> Any:
    if isinstance(cell, list):
        return [_saved(each, folder) for each in cell]
    if cell is None:
        return None
    red(cell).save(folder / f"red-{cell}.png")
    return f"red-{cell}.png"


def _encoded(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_encoded(each) for each in cell]
    if cell is None:
        return None
    buffer = io.BytesIO()
    red(cell).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _problems(first: int) -> SetFile:
    return SetFile(
        rows=(
            {"question": "3人に2個ずつ配ると何個?", "answer": "6個", "answer_number": 6},
            {"question": "千円と二百円では?", "answer": "1,200円", "answer_number": 1200},
        ),
        samples=(
            {"question": "3人に2個ずつ配ると何個?", "references": ("6",), "origin": f"gsm8k-test/{first}"},
            {"question": "千円と二百円では?", "references": ("1200",), "origin": f"gsm8k-test/{first + 1}"},
        ),
    )


_QAS = [{"qa_id": 8, "question": "何色?", "answer": "赤"}, {"qa_id": 9, "question": "形は?", "answer": "四角"}]
_VG = ({"image_id": 70, "image": 10, "qas": _QAS}, {"image_id": 71, "image": 20, "qas": _QAS[1:]})
_WORDS = SetFile(
    rows=({"id": "a-0", "question": "6+7?", "answer": "6+7=13", "number": 13, "tags": ["steps-1"]},),
    samples=({"id": "a-0", "question": "6+7?", "references": ("13",), "tags": frozenset({"steps-1"})},),
)
_EMOJI = SetFile(
    rows=({"id": "a-0", "question": "何?", "answer": "天狗", "picture": EMOJI, "tags": ["culture"]},),
    samples=({"id": "a-0", "question": "何?", "references": ("天狗",), "tags": frozenset({"culture"})},),
)
_SEVEN = tuple(f"image_{n}" for n in range(1, 8))
_JMMMU = (
    {
        "id": "test_Music_1",
        "question": "<image 1> と <image 2> の音程は?",
        "options": "['長3度', '短3度']",
        "answer": "B",
        "question_type": "multiple-choice",
        **dict.fromkeys(_SEVEN[2:]),
        "image_1": 10,
        "image_2": 20,
    },
    {
        "id": "test_Japanese_History_2",
        "question": "何年ですか?",
        "options": "[]",
        "answer": "['1600', '1600年']",
        "question_type": "open",
        **dict.fromkeys(_SEVEN),
    },
)
_MECHA = {"image": 10, "question": "行事は?", "options": ["節分", "七夕", "花見"], "answer": 1, "answer_type": 0}
_CHOICES = frozenset({"factoid"})

SETS: dict[str, SetFile] = {
    "word_problems_ja": _WORDS,
    "word_problems_en": _WORDS,
    "emoji_ja": _EMOJI,
    "emoji_en": _EMOJI,
    "gsm8k_ja": _problems(250),
    "mgsm_ja": _problems(0),
    "mgsm_en": _problems(0),
    "gsm8k": SetFile(
        rows=({"question": "3 boxes of 400?", "answer": "3*400=<<3*400=1200>>1200.\n#### 1,200"},),
        samples=({"question": "3 boxes of 400?", "references": ("1200",)},),
    ),
    "msvamp_ja": SetFile(
        rows=({"query": "2 and 1 ?", "equation": "+ a b", "response": "3.0", "m_query": "2と1では?"},),
        samples=({"question": "2と1では?", "references": ("3",), "origin": "msvamp/0"},),
    ),
    "mawps_ja": SetFile(
        rows=({"idx": 4, "question": "問題：2と1では?\n解答：", "answer": "3", "float": 0},),
        samples=({"id": "4", "question": "2と1では?", "references": ("3",)},),
    ),
    "ja_vg_vqa": SetFile(
        rows=_VG,
        samples=(
            {"id": "70", "question": "何色?", "references": ("赤",), "images": [10]},
            {"id": "71", "question": "形は?", "references": ("四角",), "images": [20]},
        ),
        pictures=("image",),
    ),
    "ja_vg_vqa_all": SetFile(
        rows=_VG,
        samples=(
            {"id": "70-8", "question": "何色?", "references": ("赤",), "images": [10]},
            {"id": "70-9", "question": "形は?", "references": ("四角",), "images": [10]},
            {"id": "71-9", "question": "形は?", "references": ("四角",), "images": [20]},
        ),
        pictures=("image",),
    ),
    "ja_vlm_bench": SetFile(
        rows=({"image": 10, "question": "鳥居は何色?", "answer": "朱色", "page_url": "", "image_url": ""},),
        samples=({"id": "001", "question": "鳥居は何色?", "references": ("朱色",), "images": [10]},),
        pictures=("image",),
    ),
    "ja_multi_image_vqa": SetFile(
        rows=({"images": [10, 20], "question": "<image> <image> どちらが赤い?", "answer": "右"},),
        samples=({"question": "どちらが赤い?", "references": ("右",), "images": [10, 20]},),
        pictures=("images",),
    ),
    "heron_bench": SetFile(
        rows=(
            {
                "question_id": 3,
                "image": 10,
                "category": "conv",
                "image_category": "anime",
                "context": "机の絵",
                "text": "何がありますか?",
                "answer": {"gpt-4-0125-preview": "机があります。", "other": "椅子"},
            },
        ),
        samples=(
            {
                "id": "3",
                "question": "何がありますか?",
                "references": ("机があります。",),
                "images": [10],
                "tags": frozenset({"conv"}),
            },
        ),
        pictures=("image",),
    ),
    "stair_captions": SetFile(
        rows=(
            {
                "image_id": 5,
                "image": 10,
                "file_name": "COCO_5.jpg",
                "annotations": [
                    {"annotation_id": n, "image_id": 5, "caption": text} for n, text in enumerate(["赤い絵", "赤一色"])
                ],
            },
        ),
        samples=({"id": "5", "question": QUESTION, "references": ("赤い絵", "赤一色"), "images": [10]},),
        pictures=("image",),
    ),
    "jmmmu": SetFile(
        rows=_JMMMU,
        samples=(
            {
                "question": "<image 1> と <image 2> の音程は?",
                "references": ("B",),
                "choices": ("長3度", "短3度"),
                "images": [10, 20],
                "tags": frozenset({"Music", "translated"}),
            },
        ),
        pictures=_SEVEN,
    ),
    "jmmmu_open": SetFile(
        rows=_JMMMU,
        samples=(
            {
                "question": "何年ですか?\n\n質問に対する回答を単語や短いフレーズで記入してください。",
                "references": ("1600", "1600年"),
                "choices": (),
                "images": [],
                "tags": frozenset({"Japanese_History", "made-for-japan"}),
            },
        ),
        pictures=_SEVEN,
    ),
    "mecha_ja": SetFile(
        rows=(_MECHA,),
        samples=({"references": ("B",), "choices": ("節分", "七夕", "花見"), "images": [10], "tags": _CHOICES},),
        pictures=("image",),
    ),
    "mecha_ja_rotated": SetFile(
        rows=(_MECHA,),
        samples=(
            {"id": "0001-0", "references": ("B",), "choices": ("節分", "七夕", "花見")},
            {"id": "0001-1", "references": ("A",), "choices": ("七夕", "花見", "節分")},
            {"id": "0001-2", "references": ("C",), "choices": ("花見", "節分", "七夕")},
        ),
        pictures=("image",),
    ),
    "cvqa_ja": SetFile(
        rows=tuple(
            {
                "image": 10,
                "ID": f"{n}_0",
                "Subset": subset,
                "Question": "料理は?",
                "Options": ["お好み焼き", "たこ焼き"],
                "Label": label,
                "Category": "Cooking and food",
            }
            # Other languages are left out, whatever they hold.
            for n, (subset, label) in enumerate([("('Igbo', 'Nigeria')", -1), ("('Japanese', 'Japan')", 1)])
        ),
        samples=(
            {
                "id": "1_0",
                "references": ("B",),
                "choices": ("お好み焼き", "たこ焼き"),
                "tags": frozenset({"Cooking and food"}),
            },
        ),
        pictures=("image",),
    ),
    "jdocqa": SetFile(
        rows=(
            {
                "question_id": "d1",
                "question": "年度は?",
                "answer": "令和2年度です。",
                "answer_type": 1,
                "image_0": 10,
                "image_1": 20,
                "image_2": None,
                "image_3": None,
            },
            {"question_id": "d2", "question": "増えましたか?", "answer": "はい", "answer_type": 0, "image_0": None},
        ),
        samples=(
            {"id": "d1", "references": ("令和2年度です。",), "images": [10, 20], "tags": frozenset({"factoid"})},
            {"id": "d2", "references": ("はい",), "images": [], "tags": frozenset({"yes_no"})},
        ),
        pictures=("image_0", "image_1", "image_2", "image_3"),
    ),
}

# The tasks of evovlm/tasks/leaderboards.py.
_SHORT = "\n上記の質問に対して、正確かつ簡潔に答えてください。"
_REFINED = SetFile(
    rows=(
        {"original_id": 3, "image": 10, "question": "鳥居は何色?", "answer": "朱色", "ocr": "", "image_name": "a.png"},
    ),
    samples=(
        {
            "id": "001",
            "question": "鳥居は何色?",
            "references": ("朱色",),
            "images": [10],
            "wording": f"鳥居は何色?{_SHORT}",
        },
    ),
    pictures=("image",),
)
_LAST_LINE = "次の選択問題に答えてください。出力の最後の行には「回答: $選択肢」（鉤括弧は書かない）という形で"
_STEPS = "ステップバイステップで考えてから回答してください。"
_BOX = "出力の最後の行は、次の形式にしてください。\n\n回答: $\\boxed{ANSWER}$\n\n`ANSWER` には、"
_PRO = {
    "id": "test_Music_1",
    "image": 10,
    "options": "['長3度', '短3度']",
    "answer": "B",
    "question_type": "multiple-choice",
}

SETS |= {
    **dict.fromkeys(
        (
            *("jammeval_heron", "jammeval_cc_ocr", "jammeval_vlm_bench", "jammeval_jdocqa", "jammeval_jgraphqa"),
            *("jgraphqa", "business_slide_vqa"),
        ),
        _REFINED,
    ),
    "jammeval_multi_image": SetFile(
        rows=({"original_id": 1, "images": [10, 20], "question": "<image> <image> どちらが赤い?", "answer": "右"},),
        samples=(
            {
                "question": "どちらが赤い?",
                "references": ("右",),
                "images": [10, 20],
                "wording": f"どちらが赤い?{_SHORT}",
            },
        ),
        pictures=("images",),
    ),
    "jammeval_cvqa": SetFile(
        rows=(
            {
                "image": 10,
                "original_id": "7_0",
                "question": "料理は?",
                "options": ["お好み焼き", "たこ焼き"],
                "answer": 1,
                "Category": "Cooking and food",
            },
        ),
        samples=(
            {
                "references": ("B",),
                "choices": ("お好み焼き", "たこ焼き"),
                "tags": frozenset({"Cooking and food"}),
                "wording": "料理は?\nA. お好み焼き\nB. たこ焼き\nステップバイステップで考えてから答えてください。\n"
                "最後の行は 'Answer: $LETTER' の形式で、選択肢のアルファベットで回答してください。",
            },
        ),
        pictures=("image",),
    ),
    "jmmmu_verified": replace(SETS["jmmmu"], rows=_JMMMU[:1]),
    "jmmmu_pro": SetFile(
        rows=(_PRO,),
        samples=(
            {
                "id": "test_Music_1",
                "references": ("B",),
                "choices": ("長3度", "短3度"),
                "images": [10],
                "tags": frozenset({"Music", "translated"}),
                "wording": "あなたの役割は画像で与えられた問題を解くことです。"
                "与えられた選択肢の中から最も適切な回答のアルファベットを直接記入してください。",
            },
        ),
        pictures=("image",),
    ),
    "jic_vqa": SetFile(
        rows=(
            {
                "question_id": 12,
                "image": 10,
                "input_text": "この画像にはどの花が映っていますか?",
                "answer": "アザミ",
                "domain": "jaflower30",
            },
        ),
        samples=({"id": "12", "references": ("アザミ",), "images": [10], "tags": frozenset({"jaflower30"})},),
        pictures=("image",),
    ),
    "cc_ocr_ja": SetFile(
        rows=tuple(
            {
                "index": n,
                "image": 10,
                "question": "Please output only the text.",
                "answer": "出口",
                "l2-category": language,
            }
            for n, language in enumerate(("Korean", "Japanese"))
        ),
        samples=({"id": "001", "question": "Please output only the text.", "references": ("出口",), "images": [10]},),
        pictures=("image",),
    ),
    "jamc_qa": SetFile(
        rows=(
            {
                "qid": "jamcqa-test-culture-1",
                "category": "culture",
                "question": "秋の季語は?",
                **{f"choice{n}": text for n, text in enumerate(("麗か", "月見", "蝉", "雪"))},
                "answer_index": 1,
            },
        ),
        samples=(
            {
                "id": "jamcqa-test-culture-1",
                "references": ("B",),
                "tags": frozenset({"culture"}),
                "wording": f"{_LAST_LINE}A、B、C、Dから選んだ選択肢を答えてください。\n\n秋の季語は?\n\n"
                "A) 麗か\nB) 月見\nC) 蝉\nD) 雪",
            },
        ),
    ),
    "gpqa_ja": SetFile(
        rows=(
            {
                "Question": "最も重いのは?",
                "Correct Answer": "鉛",
                **{f"Incorrect Answer {n}": text for n, text in enumerate(("水", "鉄", "木"), start=1)},
            },
        ),
        samples=(
            {
                "id": "001",
                "references": ("B",),
                "choices": ("水", "鉛", "鉄", "木"),
                "wording": f"{_LAST_LINE}A、B、C、Dから選んだ選択肢を答えてください。{_STEPS}\n\n最も重いのは?\n\n"
                "A) 水\nB) 鉛\nC) 鉄\nD) 木",
            },
        ),
    ),
    "mmlu_prox_ja": SetFile(
        rows=(
            {
                "question_id": 70,
                "question": "2+3は?",
                **{f"option_{n}": text for n, text in enumerate(("4", "5", "6", *[None] * 7))},
                "answer": "B",
                "answer_index": 1,
                "category": "math",
                "src": "x",
            },
        ),
        samples=(
            {
                "id": "00001",
                "references": ("B",),
                "choices": ("4", "5", "6"),
                "tags": frozenset({"math"}),
                "wording": f"{_LAST_LINE}A, B, Cから1つ選んで答えてください。{_STEPS}\n\n2+3は?\n\nA) 4\nB) 5\nC) 6",
            },
        ),
    ),
    "jemhopqa": SetFile(
        rows=({"question": "どちらが先?", "answer": "YES"},),
        samples=(
            {
                "id": "001",
                "question": "どちらが先?",
                "references": ("YES",),
                "wording": "以下の問題に回答してください。二択問題の場合は 'YES' または 'NO' で答えてください。"
                f"二択ではない問題は正しい文字列を答えてください。\n{_BOX}問題の答えが入ります。\n\n{_STEPS}\n\n"
                "問題: どちらが先?",
            },
        ),
    ),
    "math_100_ja": SetFile(
        rows=({"ja": "$x^2=4$ の正の解は?", "en": "?", "answer": "2"},),
        samples=(
            {
                "references": ("2",),
                "wording": "以下の数学の問題を、わかりやすく、論理的に解いてください。\n"
                f"{_BOX}解答となる数式または数値が入ります。\n\n{_STEPS}\n\n$x^2=4$ の正の解は?",
            },
        ),
    ),
    "polymath_ja": SetFile(
        rows=(
            {"id": "low-ja-0", "question": "1+1は?", "answer": "2"},
            {"id": "top-ja-9", "question": "半分は?", "answer": "\\frac{1}{2}"},
        ),
        samples=(
            {
                "id": "low-ja-0",
                "tags": frozenset({"low"}),
                "wording": "以下の数学の問題を解いてください。\n"
                f"{_BOX}解答となる数式または数値が入ります。\n\n問題: \n1+1は?",
            },
            {"id": "top-ja-9", "references": ("\\frac{1}{2}",), "tags": frozenset({"top"})},
        ),
    ),
}

WriteSet = Callable[[SetFile, Path], Path]
