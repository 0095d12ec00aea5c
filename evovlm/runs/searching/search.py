"""The course of one search, candidate by candidate, with its journal."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from evovlm.errors import RunMismatch
from evovlm.recipes.candidate import Candidate, Genome, Outcome
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.space import Space
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.entries import Entry, Stop
from evovlm.runs.folder.journal import Journal
from evovlm.runs.searching.scoring import CandidateScoring
from evovlm.search.loop import Generation, NextGeneration, Proposal, replayed, search


class Observer(Protocol):
    """What follows a run as it proceeds, such as a progress display."""

    def started(self, *, candidates: int | None, generations: int | None, done: int, warnings: tuple[str, ...]) -> None:
        """The run is set up; `done` candidates are replayed from the journal.

        `candidates` and `generations` are the most that there will be, None where the budget does not say.
        """
        ...

    def evaluated(self, entry: Entry) -> None:
        """A candidate, new or replayed, has its outcome."""
        ...

    def generation_ended(self, generation: Generation) -> None:
        """The optimizer has the feedback on a generation."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Search:
    """A search that continues from its journal."""

    config: SearchConfig
    space: Space
    population: int
    scoring: CandidateScoring
    journal: Journal
    _clock: float = field(default_factory=time.monotonic, init=False)

    def finish(self, *, observer: Observer | None, warnings: tuple[str, ...]) -> None:
        """Evaluate what the journal does not have yet, up to the distribution's mean."""
        self._take_back_a_failed_generation()
        recorded, snapshots = self.journal.candidates, self.journal.snapshots
        for entry in self.journal.entries:
            self.scoring.remember(entry)
        if observer is not None:
            candidates, generations = self._at_most()
            observer.started(candidates=candidates, generations=generations, done=len(recorded), warnings=warnings)

        def evaluate(proposals: tuple[Proposal, ...]) -> list[Outcome]:
            outcomes = []
            for entry in self._candidates(proposals, recorded):
                outcomes.append(entry.outcome)
                if observer is not None:
                    observer.evaluated(entry)
            return outcomes

        def look_at(mean: Genome, *, generation: int) -> None:
            if self.config.validation is None:
                return
            if generation < len(snapshots):
                self._check_replayed(snapshots[generation], mean)
            else:
                self._append_mean("snapshot", mean, generation=generation)

        def on_generation(generation: Generation) -> None:
            look_at(generation.mean, generation=generation.number + 1)
            if observer is not None:
                observer.generation_ended(generation)

        optimizer = self.config.new_optimizer(self.space)
        look_at(optimizer.mean, generation=0)
        generations = search(optimizer, continues=self._continues, evaluate=evaluate, on_generation=on_generation)
        self._rescore(generation=generations)
        self._append_mean("mean", optimizer.mean, generation=generations)

    def _at_most(self) -> tuple[int | None, int | None]:
        """Return the most candidates and the most generations that there will be, None where that is not known."""
        if not self.config.optimizer.keeps_population:
            return self.config.budget.candidates, None
        generations = self.config.budget.generations(population=self.population)
        return None if generations is None else generations * self.population, generations

    def _continues(self, upcoming: NextGeneration) -> bool:
        spent = self.config.budget.spent(self.journal, upcoming)
        if spent is not None and self.journal.stop is None:
            self.journal.append_stop(Stop(reason=spent, generation=upcoming.number))
        return spent is None

    def _candidates(self, proposals: tuple[Proposal, ...], recorded: tuple[Entry, ...]) -> Iterator[Entry]:
        """Yield the entries of a generation; new ones are in the journal by then."""
        known = recorded[proposals[0].index : proposals[-1].index + 1]
        for entry, proposal in zip(known, proposals, strict=False):
            self._check_replayed(entry, proposal.genome)
            yield entry
        if len(known) == len(proposals):
            return
        candidates = [
            Candidate(
                genome=proposal.genome,
                recipe=self.space.decode(proposal.genome),
                generation=proposal.generation,
                index=proposal.index,
            )
            for proposal in proposals
        ]
        outcomes = self.scoring.candidates(candidates, note=self._note)
        for candidate, outcome in zip(candidates, outcomes, strict=True):
            if candidate.index >= len(recorded):
                yield self._append_own("candidate", candidate, outcome)

    def _take_back_a_failed_generation(self) -> None:
        """Retry a last generation in which all failed, which stopped the run: the cause may be fixed by now."""
        recorded = self.journal.candidates
        last = [entry for entry in recorded if entry.generation == recorded[-1].generation]
        if not last or any(entry.evaluation for entry in last):
            return
        number = last[0].generation
        # Only the optimizer knows the size of a generation: with restarts, it changes.
        before = [[entry.outcome for entry in recorded if entry.generation == each] for each in range(number)]
        *_, optimizer = replayed(self.config.new_optimizer(self.space), before)
        if len(last) == optimizer.population:
            self.journal.retry(number)

    def _lap_s(self) -> float:
        """Return the time since the last call, rounded as in the journal."""
        before, self._clock = self._clock, time.monotonic()
        return round(self._clock - before, 4)

    def _check_replayed(self, entry: Entry, genome: Genome) -> None:
        expected = self.space.decode(genome).recipe_id
        if np.array_equal(entry.genome, genome) and entry.recipe_id == expected:
            return
        if entry.recipe_id != expected:
            what = f"its recipe_id is {entry.recipe_id}, but this search proposes {expected}"
        elif entry.genome.shape != genome.shape:
            what = f"its genome has {len(entry.genome)} numbers, but this search's have {len(genome)}"
        else:
            gene = int(np.argmax(entry.genome != genome))
            what = f"genome[{gene}] is {float(entry.genome[gene])}, but this search proposes {float(genome[gene])}"
        raise RunMismatch(
            f"{self.journal.path}:{entry.line}: {entry.kind} {entry.index} is not what this search proposes now: "
            f"{what}.\n"
            "    The journal was changed, or written by other versions of the packages. Put back the file as it was, "
            "continue with those versions, or start a new run in another folder."
        )

    def _append_mean(self, kind: str, genome: Genome, *, generation: int) -> None:
        recipe = self.space.decode(genome)
        index = len(self.journal.candidates)
        outcome = next(self.scoring.in_full([recipe]))
        self._append(kind, genome, recipe, outcome, index=index, generation=generation)

    def _rescore(self, *, generation: int) -> None:
        """Score the best candidates again, in full."""
        best = self.scoring.best(self.journal.candidates, self.config.rescored)
        recipes = [self.space.decode(entry.genome) for entry in best]
        done = {entry.index for entry in self.journal.rescored}
        for entry, recipe, outcome in zip(best, recipes, self.scoring.in_full(recipes), strict=True):
            if entry.index not in done:
                self._append("rescored", entry.genome, recipe, outcome, index=entry.index, generation=generation)

    def _note(self, candidate: Candidate, outcome: Outcome) -> None:
        self._append_own("part", candidate, outcome)

    def _append_own(self, kind: str, candidate: Candidate, outcome: Outcome) -> Entry:
        return self._append(
            kind, candidate.genome, candidate.recipe, outcome, index=candidate.index, generation=candidate.generation
        )

    def _append(
        self, kind: str, genome: Genome, recipe: Recipe, outcome: Outcome, *, index: int, generation: int
    ) -> Entry:
        entry = Entry(
            kind=kind,
            index=index,
            generation=generation,
            genome=genome,
            recipe_id=recipe.recipe_id,
            outcome=outcome,
            wall_s=self._lap_s(),
        )
        self.journal.append(entry)
        self.scoring.remember(entry)
        return entry
