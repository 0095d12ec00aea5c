"""How a search went: its curves by generation and by generated tokens, read from the journal."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from evovlm.errors import EvovlmError
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.report.content import CandidateRow, Course, Goals, Point, Savings
from evovlm.runs.journal import Entry, Journal
from evovlm.runs.search_config import SearchConfig
from evovlm.search.loop import told
from evovlm.search.optimizer import Optimizer

_MOST_REPLAYED = 2_000_000_000
"""Genes squared times candidates up to which a search is replayed: about ten seconds."""


def read_course(journal: Journal, config: SearchConfig) -> Course:
    """Return the course of a search that has at least one candidate."""
    candidates = journal.candidates
    figures = _figures(journal, config)
    rows = tuple(_row(entry) for entry in candidates)
    mean = journal.mean
    return Course(
        points=_points(candidates, figures),
        candidates=rows,
        snapshots=tuple(
            (entry.generation, entry.outcome.fitness)
            for entry in journal.snapshots
            if isinstance(entry.outcome, Evaluation)
        ),
        mean_fitness=mean.outcome.fitness if mean is not None and isinstance(mean.outcome, Evaluation) else None,
        replayed=bool(figures),
        savings=_savings(candidates),
        goals=_goals(candidates),
    )


def samples_of(score: TaskScore) -> int:
    """Return on how many samples a score was measured: a race ends before all of them."""
    return score.n


def _row(entry: Entry) -> CandidateRow:
    outcome = entry.outcome
    if isinstance(outcome, Failure):
        found: tuple[float | None, int, int, dict[str, float], str | None] = (None, 0, 0, {}, outcome.reason)
    else:
        samples = sum(samples_of(score) for score in outcome.scores.values())
        scores = {name: score.score for name, score in outcome.scores.items()}
        found = (outcome.fitness, outcome.tokens, samples, scores, None)
    fitness, tokens, samples, scores, failure = found
    return CandidateRow(
        index=entry.index,
        generation=entry.generation,
        recipe_id=entry.recipe_id,
        fitness=fitness,
        tokens=tokens,
        samples=samples,
        scores=scores,
        failure=failure,
    )


def _points(candidates: Sequence[Entry], figures: Sequence[Mapping[str, float]]) -> tuple[Point, ...]:
    points: list[Point] = []
    tokens = 0
    for generation in range(max(entry.generation for entry in candidates) + 1):
        outcomes = [entry.outcome for entry in candidates if entry.generation == generation]
        evaluated = [outcome for outcome in outcomes if isinstance(outcome, Evaluation)]
        tokens += sum(outcome.tokens for outcome in evaluated)
        if not evaluated:
            continue
        fitnesses = [outcome.fitness for outcome in evaluated]
        low, high = (float(end) for end in np.quantile(fitnesses, (0.1, 0.9)))
        best = max(fitnesses)
        inner = figures[generation] if generation < len(figures) else {}
        points.append(
            Point(
                generation=generation,
                n=len(evaluated),
                failed=len(outcomes) - len(evaluated),
                best=best,
                best_so_far=max(best, points[-1].best_so_far) if points else best,
                mean=sum(fitnesses) / len(fitnesses),
                low=low,
                high=high,
                tokens=tokens,
                sigma=inner.get("sigma"),
                condition=inner.get("condition"),
            )
        )
    return tuple(points)


def _figures(journal: Journal, config: SearchConfig) -> tuple[Mapping[str, float], ...]:
    """Return what the optimizer tells of itself after each whole generation, by replaying the search.

    Empty where it tells nothing, or this machine's packages ask for other candidates than the journal's.
    """
    candidates = journal.candidates
    dim = len(candidates[0].genome)
    if dim * dim * len(candidates) > _MOST_REPLAYED:
        return ()
    try:
        searched = config.searched(template=config.template(relative_to=None), blocks=journal.blocks)
        optimizer = config.new_optimizer(searched)
    except (EvovlmError, ValueError):
        return ()
    return tuple(_replayed(optimizer, candidates)) if optimizer.figures else ()


def _replayed(optimizer: Optimizer, candidates: Sequence[Entry]) -> list[Mapping[str, float]]:
    found: list[Mapping[str, float]] = []
    for number, group in itertools.groupby(candidates, key=lambda entry: entry.generation):
        entries = list(group)
        if len(entries) < optimizer.population:
            return found
        asked = optimizer.ask()
        if len(asked) != len(entries) or not all(
            np.array_equal(genome, entry.genome) for genome, entry in zip(asked, entries, strict=True)
        ):
            return []
        if all(isinstance(entry.outcome, Failure) for entry in entries):
            return found
        optimizer.tell(asked, told([entry.outcome for entry in entries], generation=number))
        found.append(optimizer.figures)
    return found


def _savings(candidates: Sequence[Entry]) -> Savings | None:
    counts = [
        sum(samples_of(score) for score in entry.outcome.scores.values())
        for entry in candidates
        if isinstance(entry.outcome, Evaluation)
    ]
    whole = max(counts, default=0) * len(counts)
    return Savings(used=sum(counts), whole=whole) if sum(counts) < whole else None


def _goals(candidates: Sequence[Entry]) -> Goals | None:
    """Return the candidates' goals: those that the search had, else the scores of its tasks where it has several."""
    evaluated = [entry.outcome for entry in candidates if isinstance(entry.outcome, Evaluation)]
    if not evaluated:
        return None
    names = tuple(evaluated[0].scores)
    goals = [tuple(getattr(outcome, "goals", ())) for outcome in evaluated]
    if any(len(values) < 2 for values in goals):
        goals = [tuple(outcome.scores[name].score for name in names) for outcome in evaluated]
    elif len(goals[0]) != len(names):
        names = tuple(str(number + 1) for number in range(len(goals[0])))
    if len(names) < 2:
        return None
    return Goals(names=names, values=tuple(goals), front=_front(goals))


def _front(values: Sequence[tuple[float, ...]]) -> frozenset[int]:
    """Return the places of the values that no other is at least as good as everywhere, and better somewhere."""
    array = np.array(values, dtype=np.float64)
    return frozenset(
        place
        for place, mine in enumerate(array)
        if not bool(np.any(np.all(array >= mine, axis=1) & np.any(array > mine, axis=1)))
    )
