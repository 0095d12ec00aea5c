"""The outcomes of recipes on the samples that their generation is scored on; none is worked out twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evovlm.evaluation.workers.jobs import Job, Rows, Workers
from evovlm.recipes.candidate import Candidate
from evovlm.recipes.kinds import Recipe
from evovlm.runs.folder.journal import Entry, best_distinct
from evovlm.runs.searching.races import Note, Races, for_nothing
from evovlm.runs.searching.sample_parts import SampleParts
from evovlm.search.loop import Outcome


@dataclass(slots=True, kw_only=True, eq=False)
class Scoring:
    """Scores recipes on the parts of the samples, and remembers what it was told; generations race where there are
    `races`.
    """

    workers: Workers
    parts: SampleParts
    races: Races | None = None
    _known: dict[tuple[str, Rows | None], Outcome] = field(default_factory=dict, init=False)

    def remember(self, entry: Entry) -> None:
        """Take a journal's line, so that the same recipe on the same samples is known."""
        if self.races is not None and entry.kind in ("part", "candidate"):
            self.races.remember(entry)
        else:
            rows = self.parts.of_candidates(entry.generation) if entry.kind == "candidate" else self.parts.of_means()
            self._remember(entry.recipe_id, rows, entry.outcome)

    def candidates(self, candidates: Sequence[Candidate], *, note: Note) -> Iterator[Outcome]:
        """Yield the outcomes of candidates of one generation, in their order, as soon as each can be told.

        What is known of one before that is to be noted.
        """
        if self.races is not None:
            return self.races.outcomes(candidates, note=note)
        rows = self.parts.of_candidates(candidates[0].generation)
        return self._outcomes([each.recipe for each in candidates], rows)

    def best(self, candidates: Sequence[Entry], count: int) -> tuple[Entry, ...]:
        """Return the `count` best of all candidates of the search, of different recipes."""
        return best_distinct(candidates, count) if self.races is None else self.races.best(count)

    def in_full(self, recipes: Sequence[Recipe]) -> Iterator[Outcome]:
        """Yield the outcomes of recipes on the validation samples, or, without those, on all."""
        return self._outcomes(recipes, self.parts.of_means())

    def _outcomes(self, recipes: Sequence[Recipe], rows: Rows | None) -> Iterator[Outcome]:
        new = {recipe.recipe_id: recipe for recipe in recipes if (recipe.recipe_id, rows) not in self._known}
        coming = zip(
            new, self.workers.outcomes([Job(recipe=recipe, rows=rows) for recipe in new.values()]), strict=True
        )
        for recipe in recipes:
            if (recipe.recipe_id, rows) in self._known:
                yield for_nothing(self._known[recipe.recipe_id, rows])
            else:
                recipe_id, outcome = next(coming)
                self._remember(recipe_id, rows, outcome)
                yield outcome

    def _remember(self, recipe_id: str, rows: Rows | None, outcome: Outcome) -> None:
        self._known.setdefault((recipe_id, rows), outcome)
