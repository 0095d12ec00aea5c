"""The Pareto front of a run: the candidates that no other is better than in every goal."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.recipes.candidate import Evaluation
from evovlm.runs.folder.journal import Journal
from evovlm.runs.folder.rows import Entry
from evovlm.search.pareto import front


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontPoint:
    """One candidate of the front, and what each goal is worth there, by task."""

    entry: Entry
    goals: Mapping[str, float]

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        fitness = self.entry.outcome.fitness if isinstance(self.entry.outcome, Evaluation) else None
        return {
            "index": self.entry.index,
            "recipe_id": self.entry.recipe_id,
            "fitness": fitness,
            "goals": dict(self.goals),
        }


def front_of(journal: Journal, *, goals: tuple[str, ...]) -> tuple[FrontPoint, ...]:
    """Return the front over the tasks `goals`, the best in the first of them first; empty where there are no goals.

    Candidates that break a constraint are not on it, nor those that were scored on fewer samples than others. Of a
    recipe that was asked for twice, the first candidate is.
    """
    if not goals:
        return ()
    points = [
        FrontPoint(entry=entry, goals={name: entry.outcome.scores[name].score for name in goals})
        for entry in _comparable(journal)
        if isinstance(entry.outcome, Evaluation)
    ]
    chosen = [points[index] for index in front([tuple(point.goals.values()) for point in points])]
    # Stable, so that the earlier of equals comes first.
    return tuple(sorted(chosen, key=lambda point: tuple(-value for value in point.goals.values())))


def _comparable(journal: Journal) -> list[Entry]:
    """Return one candidate of each recipe that is feasible and was scored on all samples that any was."""
    feasible: dict[str, Entry] = {}
    most = 0
    for entry in journal.candidates:
        if isinstance(entry.outcome, Evaluation):
            most = max(most, entry.outcome.n_samples)
            if entry.outcome.fitness >= 0:
                known = feasible.setdefault(entry.recipe_id, entry)
                if isinstance(known.outcome, Evaluation) and known.outcome.n_samples < entry.outcome.n_samples:
                    feasible[entry.recipe_id] = entry
    return [
        entry
        for entry in feasible.values()
        if isinstance(entry.outcome, Evaluation) and entry.outcome.n_samples == most
    ]
