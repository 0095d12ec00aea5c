"""`budget:` of a search: when it ends. The first bound that would be passed ends it, after a whole generation.

budget:
  candidates: 1000          # no more than so many
  tokens: 5000000           # no further generation once so many have been generated
  seconds: 3600             # ... or once evaluating has taken so long, by the clock on the wall
  patience: 10              # ... or once so many generations in a row brought no improvement
  min_improvement: 0.001    # what counts as one

What has been spent is read from the journal, so that a resumed run ends where the uninterrupted one would have.
"""

import math
from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from evovlm.runs.config.sections import Section
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal
from evovlm.search.loop import NextGeneration

BOUNDS = ("candidates", "tokens", "seconds", "patience")


class BudgetSection(Section):
    """The whole of `budget:`; one bound at least is needed."""

    candidates: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)
    min_improvement: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if all(getattr(self, name) is None for name in BOUNDS):
            raise PydanticCustomError("budget", "needs a bound: {bounds}", {"bounds": ", ".join(BOUNDS)})
        if self.min_improvement and self.patience is None:
            raise PydanticCustomError("budget", "min_improvement: says what patience waits for; set patience")
        return self

    def spent(self, journal: Journal, upcoming: NextGeneration) -> str | None:
        """Return which bound ends the search before the next generation; None where it goes on.

        `journal` holds everything up to there, and may hold more.
        """
        if self.candidates is not None and upcoming.before + upcoming.candidates > self.candidates:
            return "candidates"
        if upcoming.number == 0:
            # A search without a candidate has no result; what its parents cost is none of its budget's business yet.
            return None
        entries = [entry for entry in journal.entries if _is_before(entry, upcoming)]
        tokens = sum(entry.evaluation.tokens for entry in entries if entry.evaluation)
        if self.tokens is not None and tokens + sum(each.tokens for each in journal.parents.values()) >= self.tokens:
            return "tokens"
        if self.seconds is not None and sum(entry.wall_s for entry in entries) >= self.seconds:
            return "seconds"
        if self.patience is not None and self._waited(entries, upcoming.number) >= self.patience:
            return "patience"
        return None

    def generations(self, *, population: int) -> int | None:
        """Return how many generations there are at most; None where that is not known beforehand."""
        return None if self.candidates is None else self.candidates // population

    def is_raised_from(self, before: "BudgetSection") -> bool:
        """Return whether a search with the budget `before` can go on with this one: no bound of it is lower."""
        for name in BOUNDS:
            old, new = getattr(before, name), getattr(self, name)
            if new is not None and (old is None or new < old):
                return False
        return self.min_improvement <= before.min_improvement

    def _waited(self, entries: Sequence[Entry], generations: int) -> int:
        """Return for how many generations the best has not improved: of the snapshots, where there are any."""
        snapshots = any(entry.kind == "snapshot" for entry in entries)
        found: dict[int, float] = {}
        for entry in entries:
            if entry.kind == ("snapshot" if snapshots else "candidate") and entry.evaluation:
                found[entry.generation] = max(found.get(entry.generation, -math.inf), entry.evaluation.fitness)
        best, waited = -math.inf, 0
        for number in range(generations + snapshots):
            fitness = found.get(number, -math.inf)
            waited = 0 if fitness > best + self.min_improvement else waited + 1
            best = best if waited else fitness
        return waited


def _is_before(entry: Entry, upcoming: NextGeneration) -> bool:
    # The mean's snapshot of a generation is taken before its candidates; a part is within its candidate's line.
    if entry.kind == "candidate":
        return entry.generation < upcoming.number
    return entry.kind == "snapshot" and entry.generation <= upcoming.number
