"""What a search proposes and what comes back: candidates, their evaluations, and failures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.foreign_json import JsonObject
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.low_score import LowScore

Genome: TypeAlias = npt.NDArray[np.float64]
"""A point of the unit cube, shape (dim,), float64."""

Levels: TypeAlias = npt.NDArray[np.int64]
"""Number of values of each gene, shape (dim,); 0 for a gene that is any number in [0, 1].

A gene with k >= 2 levels means the one of k equal intervals of [0, 1] in which it lies (a boundary belongs to the
lower interval): with k = 2, above one half or not.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A genome, the recipe it decodes to, and its place in the search (both indices count from 0).

    `index` counts candidates over the whole search.
    """

    genome: Genome
    recipe: Recipe
    generation: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How long answers and their thoughts are, in tokens of the model's tokenizer, and in which language it thinks.

    `tokens` and `thought_tokens` are means over all answers, thoughts included in the first. `thoughts` counts the
    answers with a thought, `thought_japanese` is the share of these whose thought is Japanese (0 without any).
    """

    tokens: float
    thought_tokens: float
    thoughts: int
    thought_japanese: float

    def figures(self) -> dict[str, object]:
        """Return its numbers as plain values."""
        return {
            "tokens": self.tokens,
            "thought_tokens": self.thought_tokens,
            "thoughts": self.thoughts,
            "thought_japanese": self.thought_japanese,
        }

    @classmethod
    def of(cls, row: JsonObject) -> Self:
        """Return what `figures` wrote. Raises ValueError, with the field, for any other values."""
        return cls(
            tokens=row.number("tokens", low=0),
            thought_tokens=row.number("thought_tokens", low=0),
            thoughts=row.count("thoughts"),
            thought_japanese=row.number("thought_japanese", low=0, high=1),
        )

    @classmethod
    def joined(cls, parts: Sequence[tuple[Self, int]]) -> Self:
        """Return that of all answers together, from those of disjoint parts, each with its number of answers."""
        n, thoughts = sum(count for _, count in parts), sum(part.thoughts for part, _ in parts)
        return cls(
            tokens=sum(part.tokens * count for part, count in parts) / n,
            thought_tokens=sum(part.thought_tokens * count for part, count in parts) / n,
            thoughts=thoughts,
            thought_japanese=sum(part.thought_japanese * part.thoughts for part, _ in parts) / max(1, thoughts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """How well a model did on one task; every number is in [0, 1], higher is better.

    `score` counts an answer only if it passes the language gate; `ungated` drops the gate; `japanese` is the share of
    answers in Japanese; `per_sample` holds the scores of the `n` samples in the task's order. `unscored` counts the
    samples without an answer to score, because the text has none or the model gave none; they score 0. `rows` says
    which of the task's samples they are, in the order of `per_sample`; None for all, in the task's order. `low`
    explains a score of almost 0, `thinking` measures the lengths of answers, where that was asked for. Where samples
    are asked repeatedly, their scores are means over the repeats, `repeats` holds the score of each, and `unscored`
    counts answers.
    """

    score: float
    ungated: float
    japanese: float
    per_sample: tuple[float, ...]
    n: int
    unscored: int = 0
    rows: tuple[int, ...] | None = None
    low: LowScore | None = None
    thinking: Thinking | None = None
    repeats: tuple[float, ...] = ()

    @property
    def spread(self) -> float:
        """The standard deviation of the repeats' scores; 0 for one."""
        return stdev(self.repeats) if len(self.repeats) > 1 else 0.0

    def measured(self, measure: str) -> float:
        """Return a mean by its name; 0 for one of `thinking` that was not measured."""
        if measure in ("score", "ungated", "japanese"):
            return float(getattr(self, measure))
        return 0.0 if self.thinking is None else float(getattr(self.thinking, measure))

    def figures(self) -> dict[str, object]:
        """Return the means and the number of samples as plain values; further ones where they were measured."""
        found: dict[str, object] = {
            "score": self.score,
            "ungated": self.ungated,
            "japanese": self.japanese,
            "n": self.n,
        }
        if self.repeats:
            found |= {"repeats": list(self.repeats), "spread": self.spread}
        return found if self.thinking is None else {**found, "thinking": self.thinking.figures()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A candidate's `fitness` (higher is better), its `scores` by task, and what it cost.

    `seconds` holds wall-clock time by stage; `tokens` counts generated tokens. `goals` holds the value
    of each goal (higher is better) where a search has several; their trade-off is a Pareto set. `texts` are its answers
    to the first task, where a person will choose among candidates; journals do not have them.
    """

    scores: Mapping[str, TaskScore]
    fitness: float
    seconds: Mapping[str, float]
    tokens: int
    goals: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def evaluation(self) -> "Evaluation":
        """Itself; None for a failure."""
        return self

    @property
    def failure(self) -> None:
        """None: it did not fail."""
        return None

    @property
    def n_samples(self) -> int:
        """The number of samples it was scored on, over all tasks; a race ends before all of them."""
        return sum(score.n for score in self.scores.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a candidate has no evaluation: a short machine-readable `kind` and a `reason` for people."""

    reason: str
    kind: str

    @property
    def evaluation(self) -> None:
        """None: it was not scored."""
        return None

    @property
    def failure(self) -> "Failure":
        """Itself; None for an evaluation."""
        return self


Outcome: TypeAlias = Evaluation | Failure
"""What comes back for a candidate."""
