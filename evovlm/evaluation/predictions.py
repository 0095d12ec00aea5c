"""Predictions as rows of JSON, one an answer, and back.

{"task": "word_problems_ja", "id": "p0", "question": "...", "references": ["2"], "tags": [], "choices": [],
 "text": "...", "extracted": "2", "gate": "script", "score": 1.0, "ungated": 1.0, "japanese": true, "unscored": null}
"""

import json
from collections.abc import Mapping
from typing import Any

from evovlm.errors import RunMismatch
from evovlm.evaluation.answering import Answer, ScoredTask
from evovlm.tasks.metrics.scoring import SampleScore
from evovlm.tasks.sample import Sample


def prediction_lines(scored: ScoredTask) -> str:
    """Return one line of JSON an answer, in the task's order."""
    return "".join(json.dumps(_row(scored, answer), ensure_ascii=False) + "\n" for answer in scored.answers)


def parse_answers(text: str, *, where: str) -> tuple[Answer, ...]:
    """Return the answers that `prediction_lines` wrote. Raises RunMismatch, naming `where`, for anything else."""
    answers = []
    # str.splitlines would cut at characters that may stand inside an answer.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            answers.append(_answer(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise RunMismatch(
                f"{where}:{number}: is no prediction ({type(error).__name__}: {error}).\n"
                "    The file was changed; score into a new folder."
            ) from error
    return tuple(answers)


def _row(scored: ScoredTask, answer: Answer) -> Mapping[str, object]:
    sample, score = answer.sample, answer.score
    return {
        "task": scored.name,
        "id": sample.id,
        "question": sample.question,
        "references": list(sample.references),
        "tags": sorted(sample.tags),
        "choices": list(sample.choices),
        "text": answer.text,
        "extracted": score.extracted,
        "gate": scored.gate,
        "score": score.score,
        "ungated": score.ungated,
        "japanese": score.japanese,
        "unscored": score.unscored,
    }


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(
        sample=Sample(
            id=row["id"],
            question=row["question"],
            references=tuple(row["references"]),
            tags=frozenset(row["tags"]),
            choices=tuple(row["choices"]),
        ),
        text=row["text"],
        score=SampleScore(
            score=row["score"],
            ungated=row["ungated"],
            japanese=row["japanese"],
            extracted=row["extracted"],
            unscored=row["unscored"],
        ),
    )
