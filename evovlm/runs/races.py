"""The races of a search: each generation's candidates on the same blocks of samples, as far as ranking them takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from evovlm.evaluation.objective import Objective
from evovlm.evaluation.workers import Job, Rows, Workers
from evovlm.recipes.candidate import Candidate, Evaluation, Failure
from evovlm.runs.journal import Entry
from evovlm.runs.racing_config import RacingSection
from evovlm.runs.sample_order import ORDERS, Ordering, Past
from evovlm.runs.sample_parts import SampleParts
from evovlm.search.loop import Outcome
from evovlm.search.racing import Floats, Table, abilities, looks, still_racing, to_the_leaders
from evovlm.search.smoothing import Observed, smoothed

# Smoothing costs the cube of their number, and the candidates of long ago are far away.
_MODELLED, _MODELLED_GENERATIONS = 500, 3

Note: TypeAlias = Callable[[Candidate, Outcome], None]
"""Takes down what a candidate scored on a block, so that it is known again after a stop."""


@dataclass(slots=True, kw_only=True, eq=False)
class Races:
    """Has generations race by the rules of the config, and remembers what it was told of blocks and candidates."""

    rules: RacingSection
    workers: Workers
    parts: SampleParts
    objective: Objective
    _blocks: dict[int, list[Outcome]] = field(default_factory=dict, init=False)
    _past: list[Entry] = field(default_factory=list, init=False)

    def remember(self, entry: Entry) -> None:
        """Take a journal's line: what a candidate scored on its next block, or as a whole."""
        if entry.kind == "part":
            self._blocks.setdefault(entry.index, []).append(entry.outcome)
        elif entry.kind == "candidate":
            self._past.append(entry)

    def outcomes(self, candidates: Sequence[Candidate], *, note: Note) -> Iterator[Outcome]:
        """Have the candidates of one generation race, and yield their outcomes in their order.

        What a block says of a candidate is noted, and is remembered by then. An outcome's fitness is what the candidate
        is estimated to score on all samples of the race; its scores are those on the samples that it saw.
        """
        blocks = self._order(candidates[0].generation)
        racing = list(candidates)
        for number, rows in enumerate(blocks):
            self._score(racing, rows, number=number, note=note)
            racing = self._still_racing(candidates, racing, n_looks=len(blocks))
            if not racing:
                break
        yield from self._told(candidates)

    def best(self, count: int) -> tuple[Entry, ...]:
        """Return the `count` candidates of the search that are most likely the best, of different recipes.

        Their fitnesses are means over other samples in each generation, so the samples' ease is taken out.
        """
        known = self._evaluated()[-_MODELLED:]
        worth = self._worth(known)
        found: dict[str, Entry] = {}
        for index in np.argsort(-worth, kind="stable"):
            found.setdefault(known[index][0].recipe_id, known[index][0])
        return tuple(found.values())[:count]

    def _worth(self, known: Sequence[tuple[Entry | Candidate, Evaluation]]) -> Floats:
        """Return how good candidates are, whatever samples they saw, up to a constant."""
        generations = np.array([each.generation for each, _ in known], dtype=np.int64)
        generations -= generations.min(initial=generations[0])
        names = tuple(self.parts.sizes)
        means = {name: float(np.mean([each.scores[name].score for _, each in known])) for name in names}
        values, noise = np.zeros(len(known)), np.zeros(len(known))
        for name, slope in self.objective.gradient(means).items():
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
        """Return the blocks of a generation, a function of the seed and of what earlier generations scored."""
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
        return [(entry, entry.outcome) for entry in self._past if isinstance(entry.outcome, Evaluation)]

    def _score(self, racing: Sequence[Candidate], rows: Rows, *, number: int, note: Note) -> None:
        """Note what each scored on the block of this `number` where it is not known; equal recipes are scored once."""
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
                note(each, for_nothing(known[each.recipe.recipe_id]))
            else:
                known[each.recipe.recipe_id] = next(coming)
                note(each, known[each.recipe.recipe_id])

    def _still_racing(
        self, candidates: Sequence[Candidate], racing: Sequence[Candidate], *, n_looks: int
    ) -> list[Candidate]:
        alive = [each for each in candidates if self._joined(each) is not None]
        if not alive:
            return []
        goes_on = still_racing(
            self._table(alive),
            np.array([each in racing for each in alive]),
            better=len(candidates) // 2,
            level=self.rules.error / n_looks,
        )
        return [each for each, on in zip(alive, goes_on, strict=True) if on]

    def _told(self, candidates: Sequence[Candidate]) -> Iterator[Outcome]:
        joined = {each.index: self._joined(each) for each in candidates}
        alive = [(each, found) for each in candidates if (found := joined[each.index]) is not None]
        fitness = self._fitness(alive) if alive else {}
        for each in candidates:
            outcome = joined[each.index]
            if outcome is None:
                yield next(part for part in self._blocks[each.index] if isinstance(part, Failure))
            else:
                yield replace(outcome, fitness=fitness[each.index])

    def _fitness(self, alive: Sequence[tuple[Candidate, Evaluation]]) -> dict[int, float]:
        """Return by index what candidates are told: about the leaders' mean fitness, as far apart as is estimated."""
        found = to_the_leaders(self._table([each for each, _ in alive]))
        of_leaders = np.array([each.fitness for _, each in alive])[found.leads]
        if not self.rules.smooth:
            told = np.where(found.leads, 0.0, of_leaders.mean() + found.differences)
            told[found.leads] = of_leaders
        else:
            generation = alive[0][0].generation
            past = [
                row for row in self._evaluated() if generation - _MODELLED_GENERATIONS < row[0].generation < generation
            ]
            worth = self._worth([*past, *alive])[len(past) :]
            told = of_leaders.mean() + worth - worth[found.leads].mean()
        return {each.index: float(value) for (each, _), value in zip(alive, told, strict=True)}

    def _joined(self, candidate: Candidate) -> Evaluation | None:
        """Return what a candidate scored on all its blocks; None when it failed on one."""
        parts = self._blocks[candidate.index]
        evaluated = [part for part in parts if isinstance(part, Evaluation)]
        return self.objective.joined(evaluated) if len(evaluated) == len(parts) else None

    def _table(self, candidates: Sequence[Candidate]) -> Table:
        """Return what candidates scored on the blocks, none of whom failed."""
        parts = [[part for part in self._blocks[each.index] if isinstance(part, Evaluation)] for each in candidates]
        longest = max(parts, key=len)
        names = tuple(self.parts.sizes)
        tasks = [task for part in longest for task, name in enumerate(names) for _ in range(part.scores[name].n)]
        scores = np.full((len(candidates), len(tasks)), np.nan)
        for index, own in enumerate(parts):
            values = [value for part in own for name in names for value in part.scores[name].per_sample]
            scores[index, : len(values)] = values
        means = {
            name: float(np.nanmean(scores[:, [task == number for task in tasks]])) for number, name in enumerate(names)
        }
        gradient = self.objective.gradient(means)
        return Table(
            scores=scores, tasks=np.array(tasks, dtype=np.int64), slopes=np.array([gradient[name] for name in names])
        )


def for_nothing(outcome: Outcome) -> Outcome:
    """Return a known outcome, which cost nothing this time."""
    return replace(outcome, seconds={}, tokens=0) if isinstance(outcome, Evaluation) else outcome
