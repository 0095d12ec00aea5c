"""JAMMEval: seven Japanese sets of questions about pictures, corrected in two rounds by hand. Only reported on.

Asked as in llm-jp/simple-evals-mm (06b2f44): six sets for short answers, which a judge compares with the reference, and
CVQA's options. BusinessSlideVQA and JGraphQA, which it also has, are asked in the same way.

{"original_id": 3, "image": {"bytes": ...}, "question": "写真の鳥居は何色ですか？", "answer": "朱色", ...}
{"original_id": 3, "images": [{"bytes": ...}, ...], "question": "...", "answer": "...", ...}
                      llm-jp/JAMMEval, configs CC-OCR-JA-, CVQA-JA-, Heron-Bench-, JA-Multi-Image-VQA-, JA-VLM-Bench-,
                      JDocQA-, JGraphQA-Refined, split test
{"question_id": 0, "image": "..._page_003.png", "image type": "表", "question": "...", "answer": "..."}
                      llm-jp/BusinessSlideVQA, split train; its pictures are made from public slides (MIT)
{"id": ..., "image": {"bytes": ...}, "question": "...", "answer": "..."}      llm-jp/JGraphQA, split train
"""

from functools import partial
from pathlib import Path

from evovlm.tasks.prompts import without_places
from evovlm.tasks.published import Published
from evovlm.tasks.row import Row
from evovlm.tasks.sample import Sample, Split, letter_of

HUB_ID = "llm-jp/JAMMEval"
SHORT = "\n上記の質問に対して、正確かつ簡潔に答えてください。"
_CHOOSE = (
    "\nステップバイステップで考えてから答えてください。\n"
    "最後の行は 'Answer: $LETTER' の形式で、選択肢のアルファベットで回答してください。"
)
_PICTURES = ("image", "images")


def load_open(split: Split, data: Path | None, *, published: Published) -> tuple[Sample, ...]:
    """Return the questions that are answered in a few words. Raises TaskError for data that is missing or broken."""
    rows = enumerate(published.rows(split, data), start=1)
    return published.checked((_open(row, number) for number, row in rows), split=split, data=data)


def _open(row: Row, number: int) -> Sample:
    question = without_places(row.text("question"))
    return Sample(
        id=f"{number:03d}",
        question=question,
        references=(row.text("answer"),),
        images=row.pictures(_PICTURES) or (row.picture("image"),),
        wording=f"{question}{SHORT}",
    )


def load_cvqa(split: Split, data: Path | None) -> tuple[Sample, ...]:
    """Return CVQA's questions, tagged by category. Raises TaskError for data that is missing or broken."""
    rows = enumerate(_CVQA.rows(split, data), start=1)
    return _CVQA.checked((_choice(row, number) for number, row in rows), split=split, data=data)


def _choice(row: Row, number: int) -> Sample:
    question, options = row.text("question"), row.texts("options")
    listed = "".join(f"\n{letter_of(index)}. {option}" for index, option in enumerate(options))
    return Sample(
        id=f"{number:03d}",
        question=question,
        references=(row.letter("answer", n_choices=len(options)),),
        images=(row.picture("image"),),
        choices=options,
        tags=frozenset({row.text("Category")}),
        wording=f"{question}{listed}{_CHOOSE}",
    )


def _refined(name: str) -> Published:
    return Published(hub_id=HUB_ID, configs=(f"{name}-Refined",), splits={Split.REPORT: "test"})


def _short_answers(published: Published) -> "partial[tuple[Sample, ...]]":
    return partial(load_open, published=published)


_CVQA = _refined("CVQA-JA")
BUSINESS_SLIDES = Published(hub_id="llm-jp/BusinessSlideVQA", splits={Split.REPORT: "train"})
GRAPHS = Published(hub_id="llm-jp/JGraphQA", splits={Split.REPORT: "train"})
load_cc_ocr = _short_answers(_refined("CC-OCR-JA"))
load_heron = _short_answers(_refined("Heron-Bench"))
load_multi_image = _short_answers(_refined("JA-Multi-Image-VQA"))
load_vlm_bench = _short_answers(_refined("JA-VLM-Bench"))
load_jdocqa = _short_answers(_refined("JDocQA"))
load_jgraphqa = _short_answers(_refined("JGraphQA"))
load_business_slides = _short_answers(BUSINESS_SLIDES)
load_graphs = _short_answers(GRAPHS)
