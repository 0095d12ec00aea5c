"""A task's part of the report: the standings, and everyone's answers side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from evovlm.evaluation.answers import ScoredTask, TaskChoice
from evovlm.report.content import AnswerCell, AnswerRow, Confusion, TaskReport
from evovlm.report.pictures import Pictures, open_pictures
from evovlm.runs.scores.contenders import Role
from evovlm.runs.scores.standings import Answered, standing_of
from evovlm.tasks.metrics.scoring import Answer

_MOST_ROWS = 1000
"""The most samples of a task that the page lists."""
_MOST_CHARACTERS = 1_200_000
"""The most characters in all answers to a task: a Japanese one takes three bytes, and two tasks must fit into 8 MB."""
_LEAST_CUT = 200
_MOST_PAIRS = 12
_MOST_IN_MATRIX = 15
_LONGEST_NAME = 16
_MOST_NAMES = 0.75
"""The most different names per sample for which a task counts as naming: names must recur."""


def report_of(answered: Sequence[Answered], choice: TaskChoice, *, search_score: float | None = None) -> TaskReport:
    """Return a task's report; `answered` is not empty, and begins with the winner if it has answered.

    `search_score` is the winner's score on the search split of the task, if it was searched with.
    """
    first = answered[0].scored
    winner = answered[0] if answered[0].contender.role == "winner" else None
    by_id = [each.scored.by_id for each in answered]
    shared = [answer.sample.id for answer in first.answers if all(answer.sample.id in found for found in by_id)]
    shown = shared[:_MOST_ROWS]
    limit = _limit(by_id, shown)
    pictures = open_pictures(choice, len(shown))
    rows = tuple(_row(ids, by_id, answered, limit=limit, pictures=pictures) for ids in shown)
    return TaskReport(
        name=first.name,
        measured=first.measured,
        gate=first.gate,
        n=len(first.answers),
        binary=all(value in (0.0, 1.0) for each in answered for value in each.scored.score.per_sample),
        has_winner=winner is not None,
        standings=tuple(standing_of(each, winner=winner) for each in answered),
        names=tuple(each.contender.name for each in answered),
        roles=tuple(each.contender.role for each in answered),
        rows=rows,
        tags=first.tags,
        confusions=_confusions(answered),
        left_out=len(shared) - len(shown),
        cut=sum(len(found[each].text) > limit for found in by_id for each in shown),
        absent=first.absent,
        low=first.low,
        without_pictures=pictures.missing,
        search_score=search_score if winner is not None else None,
    )


def _limit(by_id: Sequence[Mapping[str, Answer]], shown: Sequence[str]) -> int:
    """Return the largest length of an answer for which all answers fit into the page."""
    lengths = [len(found[each].text) for found in by_id for each in shown]
    limit = max(lengths, default=_LEAST_CUT)
    while limit > _LEAST_CUT and sum(min(length, limit) for length in lengths) > _MOST_CHARACTERS:
        limit = max(_LEAST_CUT, int(limit * 0.8))
    return limit


def _row(
    sample_id: str,
    by_id: Sequence[Mapping[str, Answer]],
    answered: Sequence[Answered],
    *,
    limit: int,
    pictures: Pictures,
) -> AnswerRow:
    sample = by_id[0][sample_id].sample
    cells = tuple(_cell(found[sample_id], limit) for found in by_id)
    return AnswerRow(
        id=sample_id,
        question=sample.question[: 4 * limit],
        references=sample.references,
        choices=sample.choices,
        tags=tuple(sorted(sample.tags)),
        pictures=pictures.of(sample_id),
        cells=cells,
        prompts=_prompts([found[sample_id] for found in by_id], 4 * limit),
        who=_who(cells, [each.contender.role for each in answered]),
    )


def _cell(answer: Answer, limit: int) -> AnswerCell:
    return AnswerCell(
        text=answer.text if len(answer.text) <= limit else answer.text[:limit] + "…",
        score=answer.score,
        extracted=answer.extracted,
        passed=answer.japanese,
        unscored=answer.unscored,
        tokens=answer.sent.tokens if answer.sent is not None else None,
        cut=answer.sent is not None and answer.sent.cut,
    )


def _prompts(answers: Sequence[Answer], limit: int) -> tuple[str, ...]:
    """Return the different prompts of answers to one sample."""
    sent = dict.fromkeys(answer.sent.prompt for answer in answers if answer.sent is not None)
    return tuple(prompt if len(prompt) <= limit else prompt[:limit] + "…" for prompt in sent)


def _who(cells: Sequence[AnswerCell], roles: Sequence[Role]) -> Literal["child", "parent", "both", "none"]:
    child = any(cell.right for cell, role in zip(cells, roles, strict=True) if role == "winner")
    parent = any(cell.right for cell, role in zip(cells, roles, strict=True) if role == "parent")
    if child:
        return "both" if parent else "child"
    return "parent" if parent else "none"


def _confusions(answered: Sequence[Answered]) -> tuple[Confusion, ...]:
    """Return each model's confusions in a task whose answers are recurring names; empty for other tasks."""
    names = Counter(reference for answer in answered[0].scored.answers for reference in answer.sample.references[:1])
    is_naming = (
        answered[0].scored.metric != "accuracy"
        and all(len(name) <= _LONGEST_NAME for name in names)
        and not any(answer.sample.choices for answer in answered[0].scored.answers)
        and len(names) <= _MOST_NAMES * len(answered[0].scored.answers)
    )
    if not is_naming:
        return ()
    few = tuple(names) if len(names) <= _MOST_IN_MATRIX else ()
    return tuple(
        Confusion(
            name=each.contender.name,
            pairs=() if few else _pairs(each.scored),
            names=few,
            matrix=_matrix(each.scored, few),
        )
        for each in answered
        if each.scored.answers
    )


def _matrix(scored: ScoredTask, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Return a row per right name: how often each of the names was answered, and last how often anything else."""
    places = {name: place for place, name in enumerate(names)}
    counts = [[0] * (len(names) + 1) for _ in names]
    for answer in scored.answers:
        right = answer.sample.references[0] if answer.sample.references else None
        if right in places:
            # A right answer may be another word for the name.
            said = right if answer.score == 1.0 else answer.text.strip().rstrip("。.")
            counts[places[right]][places.get(said, len(names))] += 1
    return tuple(map(tuple, counts))


def _pairs(scored: ScoredTask) -> tuple[tuple[str, str, int], ...]:
    said = Counter(
        (answer.sample.references[0], answer.text.strip()[: 2 * _LONGEST_NAME])
        for answer in scored.answers
        if answer.sample.references and answer.score < 1.0 and answer.text.strip()
    )
    ranked = sorted(said.items(), key=lambda each: (-each[1], each[0]))
    return tuple((right, answer, times) for (right, answer), times in ranked[:_MOST_PAIRS])
