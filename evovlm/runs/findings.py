"""What a run found: a candidate with its recipe, one that was scored again in full, and a point of the Pareto front."""

from collections.abc import Mapping
from dataclasses import dataclass

from evovlm.recipes.candidate import TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.folder.entries import Entry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunCandidate:
    """A candidate of a run, as its `entry` in the journal and as the recipe that was scored."""

    entry: Entry
    recipe: Recipe

    @property
    def index(self) -> int:
        """Its number in the search, from 0."""
        return self.entry.index

    @property
    def generation(self) -> int:
        """The number of its generation, from 0."""
        return self.entry.generation

    @property
    def fitness(self) -> float | None:
        """Its fitness on the search split; None if it failed."""
        return self.entry.evaluation.fitness if self.entry.evaluation else None

    @property
    def scores(self) -> Mapping[str, TaskScore]:
        """Its scores by task, on the search split; empty if it failed."""
        return self.entry.evaluation.scores if self.entry.evaluation else {}

    @property
    def failure(self) -> str | None:
        """The reason if it failed."""
        return self.entry.failure.reason if self.entry.failure else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """What one of the best candidates scored in full; `candidate` is its index, None for the distribution's mean.

    `search_fitness` is the search's estimate, on the samples that it had seen by then: for the best of many candidates
    this is too high (the winner's curse). None for the mean, which was not ranked.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrontPoint:
    """A candidate on the Pareto front, with its value of each goal, by the goal's name."""

    entry: Entry
    goals: Mapping[str, float]

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "index": self.entry.index,
            "recipe_id": self.entry.recipe_id,
            "fitness": self.entry.evaluation.fitness if self.entry.evaluation else None,
            "goals": dict(self.goals),
        }
