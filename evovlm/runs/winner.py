"""Which line of a journal a run's winner is, and what the best candidates scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evovlm.recipes.candidate import Evaluation
from evovlm.runs.config.search import Winner
from evovlm.runs.folder.journal import Entry, Journal, best_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """What one of the best scored in full; `candidate` is its index, None for the distribution's mean.

    `search_fitness` is what the search took it for, on the samples that it had seen by then: of the best of many such
    numbers that is too much (the winner's curse). None for the mean, which was not ranked.
    """

    candidate: int | None
    recipe_id: str
    search_fitness: float | None
    fitness: float

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "candidate": self.candidate,
            "recipe_id": self.recipe_id,
            "search_fitness": self.search_fitness,
            "fitness": self.fitness,
        }


def best_of(journal: Journal, *, winner: Winner) -> Entry:
    """Return the best snapshot where the winner is one, else the best candidate: of those scored again, if any.

    Raises RunError when all failed.
    """
    if winner == "snapshot":
        return best_entry(journal.snapshots)
    return best_entry(evaluated(journal.rescored) or journal.candidates)


def winner_of(journal: Journal, *, winner: Winner) -> Entry:
    """Return the winner of a finished search. Raises RunError when all failed.

    Where candidates were scored again, the mean was too, on the same samples, and wins if it is better.
    """
    mean = journal.mean
    if winner == "mean" and mean is not None:
        return mean
    best = best_of(journal, winner=winner)
    means = evaluated([mean] if mean is not None else [])
    if winner != "best" or best.kind != "rescored" or not means:
        return best
    return max(best, means[0], key=_fitness)


def rescored(journal: Journal) -> tuple[Rescored, ...]:
    """Return what was scored again, the best first; of a finished search the mean is among them."""
    again = evaluated(journal.rescored)
    if not again:
        return ()
    told = {entry.index: _fitness(entry) for entry in evaluated(journal.candidates)}
    found = [
        Rescored(
            candidate=entry.index,
            recipe_id=entry.recipe_id,
            search_fitness=told[entry.index],
            fitness=_fitness(entry),
        )
        for entry in again
    ]
    for mean in evaluated([journal.mean] if journal.mean is not None else []):
        found.append(Rescored(candidate=None, recipe_id=mean.recipe_id, search_fitness=None, fitness=_fitness(mean)))
    return tuple(sorted(found, key=lambda each: -each.fitness))


def evaluated(entries: Sequence[Entry]) -> list[Entry]:
    """Return those that did not fail."""
    return [entry for entry in entries if isinstance(entry.outcome, Evaluation)]


def _fitness(entry: Entry) -> float:
    return entry.outcome.fitness if isinstance(entry.outcome, Evaluation) else float("-inf")
