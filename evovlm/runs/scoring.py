"""The outcome of a recipe on the samples that its generation is scored on; none is worked out twice."""

from dataclasses import dataclass, field, replace

from evovlm.errors import EvovlmError
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.kinds import Recipe
from evovlm.runs.journal import Entry
from evovlm.runs.sample_parts import Rows, SampleParts
from evovlm.search.loop import Outcome


@dataclass(slots=True, kw_only=True, eq=False)
class Scoring:
    """Scores recipes on the parts of the samples, and remembers what it was told."""

    evaluator: Evaluator
    parts: SampleParts
    _known: dict[tuple[str, Rows | None], Outcome] = field(default_factory=dict, init=False)
    _current: tuple[Rows | None, Evaluator] | None = field(default=None, init=False)

    def remember(self, entry: Entry) -> None:
        """Take a journal's line, so that the same recipe on the same samples is known."""
        rows = self._rows(kind=entry.kind, generation=entry.generation)
        self._known.setdefault((entry.recipe_id, rows), entry.outcome)

    def outcome(self, recipe: Recipe, *, kind: str, generation: int) -> Outcome:
        """Return the outcome of a line of this kind."""
        rows = self._rows(kind=kind, generation=generation)
        known = self._known.get((recipe.recipe_id, rows))
        if isinstance(known, Evaluation):
            # Known, so that it cost nothing this time.
            return replace(known, seconds={}, tokens=0)
        return known or self._evaluated(recipe, rows)

    def _rows(self, *, kind: str, generation: int) -> Rows | None:
        return self.parts.of_candidates(generation) if kind == "candidate" else self.parts.of_means()

    def _evaluated(self, recipe: Recipe, rows: Rows | None) -> Outcome:
        try:
            return self._on(rows).evaluate(recipe)
        except EvovlmError as error:
            # A recipe that cannot be merged (every weight 0, say) is one candidate's failure, not the run's.
            return Failure(kind=type(error).__name__, reason=str(error))

    def _on(self, rows: Rows | None) -> Evaluator:
        if self._current is None or self._current[0] != rows:
            self._current = rows, self.evaluator if rows is None else self.evaluator.part(rows)
        return self._current[1]
