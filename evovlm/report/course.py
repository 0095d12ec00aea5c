"""How a search went: its curves by generation and by generated tokens, read from the journal."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from evovlm.errors import EvovlmError
from evovlm.evaluation.objective import Objective
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.report.search_content import CandidateRow, Course, FrontRow, Goals, ParentRow, Point, Savings
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.journal import Entry, Journal
from evovlm.runs.front import front_of
from evovlm.runs.summary import objective_of
from evovlm.runs.winner import rescored
from evovlm.search.loop import feedback_on
from evovlm.search.optimizer import Optimizer
from evovlm.search.pareto import knee

_MOST_REPLAYED = 2_000_000_000
"""Genes squared times candidates up to which a search is replayed: about ten seconds."""


def read_course(journal: Journal, config: SearchConfig) -> Course:
    """Return the course of a search that has at least one candidate."""
    candidates = journal.candidates
    figures = _figures(journal, config)
    objective = objective_of(journal)
    mean = journal.mean
    return Course(
        points=_points(candidates, figures),
        candidates=tuple(_row(entry, objective) for entry in candidates),
        snapshots=tuple(
            (entry.generation, entry.outcome.fitness)
            for entry in journal.snapshots
            if isinstance(entry.outcome, Evaluation)
        ),
        mean_fitness=mean.outcome.fitness if mean is not None and isinstance(mean.outcome, Evaluation) else None,
        replayed=bool(figures),
        savings=_savings(journal, config),
        goals=_goals(journal, config, objective),
        constraints=objective.constraints if objective is not None else (),
        parents=_parents(journal),
        rescored=rescored(journal),
        stopped_by=journal.stop.reason if journal.stop is not None else None,
        bound=getattr(config.budget, journal.stop.reason, None) if journal.stop is not None else None,
    )


def _row(entry: Entry, objective: Objective | None) -> CandidateRow:
    known = entry.outcome if isinstance(entry.outcome, Evaluation) else None
    return CandidateRow(
        index=entry.index,
        generation=entry.generation,
        recipe_id=entry.recipe_id,
        fitness=known.fitness if known else None,
        tokens=known.tokens if known else 0,
        samples=known.n_samples if known else 0,
        scores={name: score.score for name, score in known.scores.items()} if known else {},
        failure=entry.outcome.reason if isinstance(entry.outcome, Failure) else None,
        breaks=known is not None and objective is not None and bool(objective.violated(known.scores)),
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
        searched = config.searched(journal.blocks)
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
        optimizer.tell(asked, feedback_on([entry.outcome for entry in entries], generation=number))
        found.append(optimizer.figures)
    return found


def _savings(journal: Journal, config: SearchConfig) -> Savings | None:
    if config.racing is None:
        return None
    counts = [entry.outcome.n_samples for entry in journal.candidates if isinstance(entry.outcome, Evaluation)]
    # The best and the mean are scored in full: on the validation samples, where there are any, which are others.
    others = [entry for entry in journal.entries if entry.kind != "part" and config.validation is None]
    seen = [*counts, *(each.outcome.n_samples for each in others if isinstance(each.outcome, Evaluation))]
    in_full = max(seen, default=0)
    if config.batch is not None:
        in_full = min(in_full, config.batch * len(config.tasks))
    return Savings(used=sum(counts), whole=in_full * len(counts))


def _goals(journal: Journal, config: SearchConfig, objective: Objective | None) -> Goals | None:
    """Return the goals against each other, where there are several and all candidates have the same samples."""
    if objective is None or len(objective.tasks) < 2 or config.batch is not None:
        return None
    names = objective.tasks
    points = front_of(journal, goals=names)
    if not points:
        return None
    on_it = {point.entry.index for point in points}
    evaluated = [(each.index, each.outcome) for each in journal.candidates if isinstance(each.outcome, Evaluation)]
    most = max(outcome.n_samples for _, outcome in evaluated)
    rows = [tuple(point.goals[name] for name in names) for point in points]
    return Goals(
        names=names,
        front=tuple(
            FrontRow(index=point.entry.index, recipe_id=point.entry.recipe_id, values=row)
            for point, row in zip(points, rows, strict=True)
        ),
        knee=knee(rows),
        others=tuple(
            tuple(outcome.scores[name].score for name in names)
            for index, outcome in evaluated
            if index not in on_it and outcome.n_samples == most
        ),
    )


def _parents(journal: Journal) -> tuple[ParentRow, ...]:
    return tuple(
        ParentRow(
            source=parent.source,
            scores={name: score.score for name, score in parent.scores.items()},
            samples=sum(score.n for score in parent.scores.values()),
        )
        for parent in journal.parents.values()
    )
