"""The tasks of the leaderboards of 2026: pictures (JAMMEval, JMMMU-Pro, llm-jp-eval-mm) and text (Swallow v2).

All are only reported on. Prompts are the published ones; the chat template is the model's. The leaderboards let models
write up to 32,768 tokens with thoughts; the limits here are for models that do not think (`--max-new-tokens`).
"""

from dataclasses import replace

from evovlm.tasks.metrics.scoring import Scoring
from evovlm.tasks.prompts import CHAT
from evovlm.tasks.sets import (
    cc_ocr_ja,
    gpqa_ja,
    jamc_qa,
    jammeval,
    jemhopqa,
    jic_vqa,
    jmmmu,
    math_100_ja,
    mmlu_prox_ja,
    polymath_ja,
)
from evovlm.tasks.task import Decoding, Split, Task

_REPORT = frozenset({Split.REPORT})
_LETTER = Scoring(metric="multiple_choice")
_SHORT = Decoding(max_new_tokens=256)
_WORKED = Decoding(max_new_tokens=2048)
_PER_PICTURE = "per picture"

_HERON = Task(
    name="jammeval_heron",
    description="JAMMEval: Heron-Bench, refined; judged",
    prompt=CHAT,
    scoring=Scoring(metric="judge_correct"),
    decoding=_SHORT,
    load=jammeval.load_heron,
    needs_images=True,
    splits=_REPORT,
    hub_id=jammeval.HUB_ID,
    licence=_PER_PICTURE,
    sizes={Split.REPORT: 88},
)
_JAMC_QA = Task(
    name="jamc_qa",
    description="JamC-QA, Japanese culture and everyday knowledge, multiple choice",
    prompt=CHAT,
    scoring=_LETTER,
    decoding=_SHORT,
    load=jamc_qa.load,
    needs_images=False,
    splits=_REPORT,
    hub_id=jamc_qa.DATA.hub_id,
    licence="CC BY-SA 4.0",
    sizes={Split.REPORT: 2309},
)
_MATH_100_JA = replace(
    _JAMC_QA,
    name="math_100_ja",
    description="MATH-100 (MCLM) in Japanese, problems of school competitions",
    scoring=Scoring(metric="math_answer"),
    decoding=_WORKED,
    load=math_100_ja.load,
    hub_id=math_100_ja.DATA.hub_id,
    licence="MIT",
    sizes={Split.REPORT: 99},
)

ROWS = (
    _HERON,
    *(
        replace(_HERON, name=name, description=f"JAMMEval: {what}, refined; judged", load=load, sizes=size)
        for name, what, load, size in (
            ("jammeval_cc_ocr", "CC-OCR in Japanese", jammeval.load_cc_ocr, {Split.REPORT: 145}),
            ("jammeval_multi_image", "JA-Multi-Image-VQA", jammeval.load_multi_image, {Split.REPORT: 53}),
            ("jammeval_vlm_bench", "JA-VLM-Bench", jammeval.load_vlm_bench, {}),
            ("jammeval_jdocqa", "JDocQA", jammeval.load_jdocqa, {}),
            ("jammeval_jgraphqa", "JGraphQA", jammeval.load_jgraphqa, {}),
        )
    ),
    replace(
        _HERON,
        name="jammeval_cvqa",
        description="JAMMEval: CVQA's questions about Japan, refined, multiple choice",
        scoring=_LETTER,
        decoding=_WORKED,
        load=jammeval.load_cvqa,
        sizes={Split.REPORT: 200},
    ),
    replace(
        _HERON,
        name="jgraphqa",
        description="JGraphQA, charts and tables of Japanese companies, judged",
        load=jammeval.load_graphs,
        hub_id=jammeval.GRAPHS.hub_id,
        licence="Apache-2.0",
        sizes={},
    ),
    replace(
        _HERON,
        name="business_slide_vqa",
        description="BusinessSlideVQA, public slides of companies and offices, judged",
        load=jammeval.load_business_slides,
        hub_id=jammeval.BUSINESS_SLIDES.hub_id,
        licence="MIT (questions)",
        sizes={Split.REPORT: 220},
    ),
    replace(
        _HERON,
        name="jmmmu_verified",
        description="JMMMU, corrected, all of it with options (verified 2025-12)",
        scoring=_LETTER,
        load=jmmmu.load_verified,
        hub_id=jmmmu.VERIFIED.hub_id,
        sizes={Split.REPORT: 1320},
    ),
    replace(
        _HERON,
        name="jmmmu_pro",
        description="JMMMU-Pro, the same questions inside the picture",
        scoring=_LETTER,
        load=jmmmu.load_pro,
        hub_id=jmmmu.PRO.hub_id,
        sizes={Split.REPORT: 1320},
    ),
    replace(
        _HERON,
        name="jic_vqa",
        description="JIC-VQA, Japanese flowers, food, landmarks, facilities (local file)",
        scoring=Scoring(metric="contains"),
        load=jic_vqa.load,
        hub_id=jic_vqa.DATA.hub_id,
        licence="Apache-2.0 (questions)",
        sizes={},
    ),
    replace(
        _HERON,
        name="cc_ocr_ja",
        description="CC-OCR, its Japanese part: all text in a picture",
        scoring=Scoring(metric="ocr_f1"),
        decoding=Decoding(max_new_tokens=1024),
        load=cc_ocr_ja.load,
        hub_id=cc_ocr_ja.DATA.hub_id,
        licence="see its card",
        sizes={},
    ),
    _JAMC_QA,
    replace(
        _JAMC_QA,
        name="jemhopqa",
        description="JEMHopQA 1.2, questions that take two facts, answered in a word",
        scoring=Scoring(metric="jemhopqa"),
        decoding=Decoding(max_new_tokens=1024),
        load=jemhopqa.load,
        hub_id=jemhopqa.DATA.hub_id,
        sizes={Split.REPORT: 120},
    ),
    replace(
        _JAMC_QA,
        name="mmlu_prox_ja",
        description="MMLU-ProX in Japanese, 14 fields, up to ten options",
        decoding=_WORKED,
        load=mmlu_prox_ja.load,
        hub_id=mmlu_prox_ja.DATA.hub_id,
        licence="MIT",
        sizes={Split.REPORT: 11759},
    ),
    replace(
        _JAMC_QA,
        name="gpqa_ja",
        description="GPQA in Japanese (BenchMAX Science), questions for PhD students",
        decoding=_WORKED,
        load=gpqa_ja.load,
        hub_id=gpqa_ja.DATA.hub_id,
        licence="CC BY 4.0",
        sizes={Split.REPORT: 448},
    ),
    _MATH_100_JA,
    replace(
        _MATH_100_JA,
        name="polymath_ja",
        description="PolyMath in Japanese, four levels from primary school to olympiads",
        load=polymath_ja.load,
        hub_id=polymath_ja.DATA.hub_id,
        licence="not stated",
        sizes={Split.REPORT: 500},
    ),
)
