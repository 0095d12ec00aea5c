"""The outcomes of recipes on the samples that their generation is scored on; none is worked out twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from evovlm.evaluation.workers import Job, Rows, Workers
from evovlm.recipes.candidate import Evaluation
from evovlm.recipes.kinds import Recipe
from evovlm.runs.journal import Entry
from evovlm.runs.sample_parts import SampleParts
from evovlm.search.loop import Outcome


@dataclass(slots=True, kw_only=True, eq=False)
class Scoring:
    """Scores recipes on the parts of the samples, and remembers what it was told."""

    workers: Workers
    parts: SampleParts
    _known: dict[tuple[str, Rows | None], Outcome] = field(default_factory=dict, init=False)

    def remember(self, entry: Entry) -> None:
        """Take a journal's line, so that the same recipe on the same samples is known."""
        if entry.kind != "part":
            self._remember(entry.recipe_id, self._rows(kind=entry.kind, generation=entry.generation), entry.outcome)

    def candidates(self, recipes: Sequence[Recipe], *, generation: int) -> Iterator[Outcome]:
        """Yield the outcomes of candidates of one generation, in their order, as soon as each can be told."""
        return self._outcomes(recipes, self._rows(kind="candidate", generation=generation))

    def mean(self, recipe: Recipe) -> Outcome:
        """Return the outcome of a distribution's mean."""
        return next(self._outcomes([recipe], self.parts.of_means()))

    def _outcomes(self, recipes: Sequence[Recipe], rows: Rows | None) -> Iterator[Outcome]:
        new = {recipe.recipe_id: recipe for recipe in recipes if (recipe.recipe_id, rows) not in self._known}
        coming = zip(
            new, self.workers.outcomes([Job(recipe=recipe, rows=rows) for recipe in new.values()]), strict=True
        )
        for recipe in recipes:
            if (recipe.recipe_id, rows) in self._known:
                yield _for_nothing(self._known[recipe.recipe_id, rows])
            else:
                recipe_id, outcome = next(coming)
                self._remember(recipe_id, rows, outcome)
                yield outcome

    def _remember(self, recipe_id: str, rows: Rows | None, outcome: Outcome) -> None:
        self._known.setdefault((recipe_id, rows), outcome)

    def _rows(self, *, kind: str, generation: int) -> Rows | None:
        return self.parts.of_candidates(generation) if kind == "candidate" else self.parts.of_means()


def _for_nothing(outcome: Outcome) -> Outcome:
    """Return a known outcome, which cost nothing this time."""
    return replace(outcome, seconds={}, tokens=0) if isinstance(outcome, Evaluation) else outcome
