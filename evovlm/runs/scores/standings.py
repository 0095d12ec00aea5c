"""How well a contender did on the report split of a task, and how it compares with the winner."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.errors import TaskError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.comparison import Comparison
from evovlm.evaluation.intervals import Interval, mean_interval
from evovlm.recipes.candidate import Thinking
from evovlm.runs.scores.contenders import Contender, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A contender's answers to one task."""

    contender: Contender
    scored: ScoredTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A model on the report split of a task. `subsets` are its scores on tagged samples.

    `repeats` and `thinking` are those of its TaskScore.

    `against` is the comparison of the winner with it, None for the winner itself.
    """

    name: str
    role: Role
    score: float
    interval: Interval
    ungated: float
    japanese: float
    unscored: int
    subsets: Mapping[str, float]
    tokens: int
    seconds: float
    against: Comparison | None
    repeats: tuple[float, ...] = ()
    spread: float = 0.0
    thinking: Thinking | None = None


def standing_of(each: Answered, *, winner: Answered | None = None) -> Standing:
    """Return how well a contender did, compared with the winner if there is one."""
    scored, score = each.scored, each.scored.score
    subsets = {tag: found.score for tag in scored.tags if (found := scored.tagged(tag)) is not None}
    return Standing(
        name=each.contender.name,
        role=each.contender.role,
        score=score.score,
        interval=mean_interval(score.per_sample),
        ungated=score.ungated,
        japanese=score.japanese,
        unscored=score.unscored,
        subsets=subsets,
        tokens=scored.tokens,
        seconds=sum(scored.seconds.values()),
        against=None if winner is None or winner is each else compared(winner.scored, scored),
        repeats=score.repeats,
        spread=score.spread,
        thinking=score.thinking,
    )


def compared(first: ScoredTask, second: ScoredTask) -> Comparison | None:
    """Return two models' answers compared sample by sample; None when they answered different samples."""
    try:
        return first.compared(second)
    except TaskError:
        return None
