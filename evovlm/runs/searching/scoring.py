"""Scores recipes on the samples of their generation; no recipe is scored twice on the same samples.

With `racing`, the candidates of a generation are scored on the same blocks of samples, as many as ranking them needs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from evovlm.evaluation.objective import Objective
from evovlm.evaluation.workers.jobs import Job, Rows, Workers
from evovlm.recipes.candidate import Candidate, Evaluation, Outcome
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.sections import RacingSection
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import best_distinct
from evovlm.runs.samples import ORDERS, Ordering, Past, SampleParts
from evovlm.runs.searching.choosing import Choosing
from evovlm.search.racing import (
    Flags,
    Floats,
    Table,
    abilities,
    confidently_ahead,
    looks,
    still_racing,
    to_the_leaders,
)
from evovlm.search.smoothing import Observed, smoothed

# The cost of smoothing grows with the cube of their number, and early candidates are far away.
_MODELLED, _MODELLED_GENERATIONS = 500, 3

Note: TypeAlias = Callable[[Candidate, Outcome], None]
"""Records what a candidate scored on a block, so that it is known after an interruption."""


@dataclass(slots=True, kw_only=True, eq=False)
class Races:
    """Lets generations race by the rules of the config, and remembers what candidates scored on which block."""

    rules: RacingSection
    workers: Workers
    parts: SampleParts
    objective: Objective
    _blocks: dict[int, list[Outcome]] = field(default_factory=dict, init=False)
    _past: list[Entry] = field(default_factory=list, init=False)

    def remember(self, entry: Entry) -> None:
        """Remember an entry of the journal: what a candidate scored on its next block, or as a whole."""
        if entry.kind == "part":
            self._blocks.setdefault(entry.index, []).append(entry.outcome)
        elif entry.kind == "candidate":
            self._past.append(entry)

    def outcomes(self, candidates: Sequence[Candidate], *, note: Note) -> Iterator[Outcome]:
        """Let the candidates of one generation race, and yield their outcomes in their order.

        Each candidate's scores on a block are given to `note`, which must store them. An outcome's fitness is
        the estimate for all samples of the race; its scores are those on the samples that the candidate saw.
        """
        blocks = self._order(candidates[0].generation)
        racing = list(candidates)
        for number, rows in enumerate(blocks):
            self._score(racing, rows, number=number, note=note)
            racing = self._still_racing(candidates, racing, n_looks=len(blocks))
            if not racing:
                break
        yield from self._estimated(candidates)

    def best(self, count: int) -> tuple[Entry, ...]:
        """Return the `count` candidates of the search that are most likely the best, of different recipes.

        Each generation's fitnesses are means over new samples, so the estimate corrects for how easy the samples are.
        Candidates that violate a constraint come last.
        """
        known = self._evaluated()[-_MODELLED:]
        kept = [row for row in known if self._keeps_bounds(row[1])]
        broke = [row for row in known if not self._keeps_bounds(row[1])]
        ranked = [kept[index][0] for index in np.argsort(-self._quality(kept), kind="stable")] if kept else []
        ranked += [entry for entry, _ in sorted(broke, key=lambda row: -row[1].fitness)]
        found: dict[str, Entry] = {}
        for entry in ranked:
            found.setdefault(entry.recipe_id, entry)
        return tuple(found.values())[:count]

    def _quality(self, known: Sequence[tuple[Entry | Candidate, Evaluation]]) -> Floats:
        """Return how good candidates are, up to a constant, independently of the samples that they saw."""
        generations = np.array([each.generation for each, _ in known], dtype=np.int64)
        generations -= generations.min(initial=generations[0])
        names = tuple(self.parts.sizes)
        means = {name: float(np.mean([each.scores[name].score for _, each in known])) for name in names}
        values, noise = np.zeros(len(known)), np.zeros(len(known))
        for name, slope in self._unbounded.gradient(means).items():
            scores = np.full((len(known), self.parts.sizes[name]), np.nan)
            for index, (_, each) in enumerate(known):
                scores[index, list(each.scores[name].rows or ())] = each.scores[name].per_sample
            found = abilities(scores, generations)
            values += slope * found.values
            noise += slope**2 * found.noise
        if not self.rules.smooth:
            return values
        return smoothed(Observed(points=np.array([each.genome for each, _ in known]), values=values, noise=noise))

    def _order(self, generation: int) -> list[Rows]:
        """Return the blocks of a generation, a function of the seed and of the scores of earlier generations."""
        drawn = self.parts.of_candidates(generation)
        names = tuple(self.parts.sizes)
        rows = drawn or tuple(tuple(range(size)) for size in self.parts.sizes.values())
        order = ORDERS[self.rules.order]
        ordered = []
        for name, chosen in zip(names, rows, strict=True):
            ordering = Ordering(
                size=self.parts.sizes[name],
                task=name,
                seed=self.parts.seed,
                generation=generation,
                past=[
                    Past(generation=entry.generation, fitness=each.fitness, score=each.scores[name])
                    for entry, each in self._evaluated()
                    if entry.generation < generation
                ],
            )
            kept = set(chosen)
            ordered.append([row for row in order(ordering) if row in kept])
        seen = looks(
            first=self.rules.first,
            growth=self.rules.growth,
            limit=self.rules.limit,
            sizes=[len(chosen) for chosen in rows],
        )
        before = (tuple(0 for _ in names), *seen)
        return [
            tuple(tuple(task[start:end]) for task, start, end in zip(ordered, starts, ends, strict=True))
            for starts, ends in zip(before, seen, strict=False)
        ]

    def _evaluated(self) -> list[tuple[Entry, Evaluation]]:
        return [(entry, entry.evaluation) for entry in self._past if entry.evaluation]

    def _score(self, racing: Sequence[Candidate], rows: Rows, *, number: int, note: Note) -> None:
        """Score the block of this `number` where it is not known yet, and note it; equal recipes are scored once."""
        known = {
            each.recipe.recipe_id: self._blocks[each.index][number]
            for each in racing
            if len(self._blocks.get(each.index, ())) > number
        }
        missing = [each for each in racing if len(self._blocks.get(each.index, ())) <= number]
        new = {each.recipe.recipe_id: each.recipe for each in missing if each.recipe.recipe_id not in known}
        coming = self.workers.outcomes([Job(recipe=recipe, rows=rows) for recipe in new.values()])
        for each in missing:
            if each.recipe.recipe_id in known:
                note(each, free_of_charge(known[each.recipe.recipe_id]))
            else:
                known[each.recipe.recipe_id] = next(coming)
                note(each, known[each.recipe.recipe_id])

    def _still_racing(
        self, candidates: Sequence[Candidate], racing: Sequence[Candidate], *, n_looks: int
    ) -> list[Candidate]:
        alive = [each for each in candidates if self._joined(each) is not None]
        if not alive:
            return []
        remains = still_racing(
            self._ahead(alive, level=self.rules.error / n_looks),
            np.array([each in racing for each in alive]),
            better=len(candidates) // 2,
        )
        return [each for each, on in zip(alive, remains, strict=True) if on]

    def _ahead(self, alive: Sequence[Candidate], *, level: float) -> Flags:
        """Return who is confidently ahead of whom: by the fitness, or by the violation among those with one.

        A candidate that violates a constraint is never ahead of one that does not. The other way round, only the scores
        count: few samples hardly prove a violation.
        """
        table = self._table(alive)
        ahead = confidently_ahead(table, level=level)
        joined = [self._joined(each) for each in alive]
        broke = np.array([each is not None and not self._keeps_bounds(each) for each in joined])
        if broke.any():
            slopes = self._slopes(replace(table, scores=table.scores[broke]), self.objective)
            ahead[np.ix_(broke, ~broke)] = False
            ahead[np.ix_(broke, broke)] = confidently_ahead(
                replace(table, scores=table.scores[broke], slopes=slopes), level=level
            )
        return ahead

    def _estimated(self, candidates: Sequence[Candidate]) -> Iterator[Outcome]:
        joined = {each.index: self._joined(each) for each in candidates}
        alive = [(each, found) for each in candidates if (found := joined[each.index]) is not None]
        kept = [(each, found) for each, found in alive if self._keeps_bounds(found)]
        # A candidate that violates a constraint keeps its fitness, which says by how much, on the samples that it saw.
        fitness = {each.index: found.fitness for each, found in alive} | (self._fitness(kept) if kept else {})
        for each in candidates:
            outcome = joined[each.index]
            if outcome is None:
                yield next(part for part in self._blocks[each.index] if part.failure)
            else:
                yield replace(outcome, fitness=fitness[each.index])

    def _fitness(self, alive: Sequence[tuple[Candidate, Evaluation]]) -> dict[int, float]:
        """Return the estimated fitness by index: the leaders' mean fitness, plus the estimated differences.

        None of these candidates violates a constraint, so that where there are constraints, no estimate is below 0.
        """
        found = to_the_leaders(self._table([each for each, _ in alive]))
        of_leaders = np.array([each.fitness for _, each in alive])[found.leads]
        if not self.rules.smooth:
            estimated = np.where(found.leads, 0.0, of_leaders.mean() + found.differences)
            estimated[found.leads] = of_leaders
        else:
            generation = alive[0][0].generation
            past = [
                row
                for row in self._evaluated()
                if generation - _MODELLED_GENERATIONS < row[0].generation < generation and self._keeps_bounds(row[1])
            ]
            quality = self._quality([*past, *alive])[len(past) :]
            estimated = of_leaders.mean() + quality - quality[found.leads].mean()
        if self.objective.constraints:
            estimated = np.maximum(estimated, 0.0)
        return {each.index: float(value) for (each, _), value in zip(alive, estimated, strict=True)}

    def _joined(self, candidate: Candidate) -> Evaluation | None:
        """Return what a candidate scored on all its blocks together; None if it failed on one."""
        parts = self._blocks[candidate.index]
        evaluated = [part.evaluation for part in parts if part.evaluation]
        return self.objective.joined(evaluated) if len(evaluated) == len(parts) else None

    def _table(self, candidates: Sequence[Candidate]) -> Table:
        """Return what candidates, none of which failed, scored on the blocks."""
        parts = [[part.evaluation for part in self._blocks[each.index] if part.evaluation] for each in candidates]
        longest = max(parts, key=len)
        names = tuple(self.parts.sizes)
        tasks = [task for part in longest for task, name in enumerate(names) for _ in range(part.scores[name].n)]
        scores = np.full((len(candidates), len(tasks)), np.nan)
        for index, own in enumerate(parts):
            values = [value for part in own for name in names for value in part.scores[name].per_sample]
            scores[index, : len(values)] = values
        table = Table(scores=scores, tasks=np.array(tasks, dtype=np.int64), slopes=np.zeros(len(names)))
        return replace(table, slopes=self._slopes(table, self._unbounded))

    def _slopes(self, table: Table, objective: Objective) -> Floats:
        """Return the slope of an objective in each task's score, at the means of a table."""
        names = tuple(self.parts.sizes)
        means = {name: float(np.nanmean(table.scores[:, table.tasks == number])) for number, name in enumerate(names)}
        gradient = objective.gradient(means)
        return np.array([gradient[name] for name in names])

    @property
    def _unbounded(self) -> Objective:
        return replace(self.objective, constraints=())

    def _keeps_bounds(self, evaluation: Evaluation) -> bool:
        return not self.objective.constraints or evaluation.fitness >= 0


@dataclass(slots=True, kw_only=True, eq=False)
class CandidateScoring:
    """Scores recipes on parts of the samples and remembers the outcomes.

    With `races`, generations race; with `choosing`, a person chooses among their answers.
    """

    workers: Workers
    parts: SampleParts
    races: Races | None = None
    choosing: Choosing | None = None
    _known: dict[tuple[str, Rows | None], Outcome] = field(default_factory=dict, init=False)

    def remember(self, entry: Entry) -> None:
        """Remember an entry of the journal, so that the same recipe is not scored on the same samples again."""
        if self.choosing is not None:
            self.choosing.remember(entry)
        elif self.races is not None and entry.kind in ("part", "candidate"):
            self.races.remember(entry)
        else:
            rows = self.parts.of_candidates(entry.generation) if entry.kind == "candidate" else self.parts.of_means()
            self._remember(entry.recipe_id, rows, entry.outcome)

    def candidates(self, candidates: Sequence[Candidate], *, note: Note) -> Iterator[Outcome]:
        """Yield the outcomes of the candidates of one generation, in their order, each as soon as it is known.

        What is known of a candidate before that is given to `note`.
        """
        if self.choosing is not None:
            return iter(self.choosing.candidates(candidates))
        if self.races is not None:
            return self.races.outcomes(candidates, note=note)
        rows = self.parts.of_candidates(candidates[0].generation)
        return self._outcomes([each.recipe for each in candidates], rows)

    def best(self, candidates: Sequence[Entry], count: int) -> tuple[Entry, ...]:
        """Return the `count` best candidates of the search, of different recipes."""
        return best_distinct(candidates, count) if self.races is None else self.races.best(count)

    def in_full(self, recipes: Sequence[Recipe]) -> Iterator[Outcome]:
        """Yield the outcomes of recipes on the validation samples, or on all samples without them."""
        if self.choosing is not None:
            return map(self.choosing.mean, recipes)
        return self._outcomes(recipes, self.parts.of_means())

    def _outcomes(self, recipes: Sequence[Recipe], rows: Rows | None) -> Iterator[Outcome]:
        new = {recipe.recipe_id: recipe for recipe in recipes if (recipe.recipe_id, rows) not in self._known}
        coming = zip(
            new, self.workers.outcomes([Job(recipe=recipe, rows=rows) for recipe in new.values()]), strict=True
        )
        for recipe in recipes:
            if (recipe.recipe_id, rows) in self._known:
                yield free_of_charge(self._known[recipe.recipe_id, rows])
            else:
                recipe_id, outcome = next(coming)
                self._remember(recipe_id, rows, outcome)
                yield outcome

    def _remember(self, recipe_id: str, rows: Rows | None, outcome: Outcome) -> None:
        self._known.setdefault((recipe_id, rows), outcome)


def free_of_charge(outcome: Outcome) -> Outcome:
    """Return a known outcome again, this time without cost."""
    return replace(outcome.evaluation, seconds={}, tokens=0) if outcome.evaluation else outcome
