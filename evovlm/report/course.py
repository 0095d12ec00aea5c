"""How a search went: its curves by generation and by generated tokens, read from the journal."""

from collections.abc import Mapping, Sequence

import numpy as np

from evovlm.errors import EvovlmError
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.report.search_content import (
    MOST_CANDIDATES,
    CandidateRow,
    Course,
    FrontRow,
    Goals,
    ParentRow,
    Point,
    Savings,
)
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.ratings import Ratings, ratings_file
from evovlm.runs.run import Run
from evovlm.runs.scores.contest import rated_answers
from evovlm.search.loop import feedback_on
from evovlm.search.optimizer import Optimizer
from evovlm.search.pareto import knee

_MOST_CHARACTERS = 400_000
"""The most characters of all recipes on a page."""
_MOST_REPLAYED = 2_000_000_000
"""The largest genes squared times candidates for which a search is replayed: about ten seconds."""


def read_course(run: Run) -> Course:
    """Return the course of a search that has at least one candidate."""
    ratings = Ratings.read(ratings_file(run.folder))
    figures = _figures(run)
    recipes = _recipes(run)
    return Course(
        points=_points(run.generations, figures),
        candidates=tuple(_row(entry, run, recipes.get(entry.index)) for entry in run.journal.candidates),
        snapshots=tuple(run.snapshots.items()),
        mean_fitness=run.mean_fitness,
        replayed=bool(figures),
        savings=_savings(run),
        goals=_goals(run),
        constraints=run.objective.constraints if run.objective is not None else (),
        parents=_parents(run),
        rescored=run.rescored,
        rated=ratings.strengths(),
        agreements=ratings.agreements,
        stopped_by=run.stopped_by,
        bound=getattr(run.config.budget, run.stopped_by, None) if run.stopped_by is not None else None,
    )


def _recipes(run: Run) -> Mapping[int, str]:
    """Return the recipes of the best candidates as text, as many as a page can hold."""
    found: dict[int, str] = {}
    left = _MOST_CHARACTERS
    for entry in run.ranked[:MOST_CANDIDATES]:
        text = recipe_to_yaml(run.space.decode(entry.genome), folder=run.folder)
        left -= len(text)
        if left < 0:
            break
        found[entry.index] = text
    return found


def _row(entry: Entry, run: Run, recipe: str | None) -> CandidateRow:
    known = entry.evaluation
    return CandidateRow(
        index=entry.index,
        generation=entry.generation,
        recipe_id=entry.recipe_id,
        fitness=known.fitness if known else None,
        tokens=known.tokens if known else 0,
        samples=known.n_samples if known else 0,
        scores={name: score.score for name, score in known.scores.items()} if known else {},
        failure=entry.failure.reason if entry.failure else None,
        breaks=bool(run.violated(entry)),
        genome=" ".join(f"{value:.4g}" for value in entry.genome),
        seconds=known.seconds if known else {},
        recipe=recipe,
        answers=tuple(
            (answer.sample.question, answer.text)
            for answer in (() if recipe is None else rated_answers(run.folder, entry.recipe_id))
        ),
    )


def _points(generations: Sequence[Sequence[Entry]], figures: Sequence[Mapping[str, float]]) -> tuple[Point, ...]:
    points: list[Point] = []
    tokens = 0
    for generation, entries in enumerate(generations):
        evaluated = [entry.evaluation for entry in entries if entry.evaluation]
        tokens += sum(each.tokens for each in evaluated)
        if not evaluated:
            continue
        fitnesses = [each.fitness for each in evaluated]
        low, high = (float(end) for end in np.quantile(fitnesses, (0.1, 0.9)))
        best = max(fitnesses)
        inner = figures[generation] if generation < len(figures) else {}
        points.append(
            Point(
                generation=generation,
                n=len(evaluated),
                failed=len(entries) - len(evaluated),
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


def _figures(run: Run) -> tuple[Mapping[str, float], ...]:
    """Return the optimizer's own figures after each whole generation, by replaying the search.

    Empty if it has none, or if it proposes other candidates than the journal's with this machine's packages.
    """
    candidates = run.journal.candidates
    dim = len(candidates[0].genome)
    if dim * dim * len(candidates) > _MOST_REPLAYED:
        return ()
    try:
        optimizer = run.config.new_optimizer(run.space)
    except (EvovlmError, ValueError):
        return ()
    return tuple(_replayed(optimizer, run.generations)) if optimizer.figures else ()


def _replayed(optimizer: Optimizer, generations: Sequence[Sequence[Entry]]) -> list[Mapping[str, float]]:
    found: list[Mapping[str, float]] = []
    for number, entries in enumerate(generations):
        if len(entries) < optimizer.population:
            return found
        asked = optimizer.ask()
        if len(asked) != len(entries) or not all(
            np.array_equal(genome, entry.genome) for genome, entry in zip(asked, entries, strict=True)
        ):
            return []
        if all(entry.failure for entry in entries):
            return found
        optimizer.tell(asked, feedback_on([entry.outcome for entry in entries], generation=number))
        found.append(optimizer.figures)
    return found


def _savings(run: Run) -> Savings | None:
    config, journal = run.config, run.journal
    if config.racing is None:
        return None
    counts = [each.evaluation.n_samples for each in journal.candidates if each.evaluation]
    # The best and the mean are scored in full, but if there are validation samples, on those.
    others = [entry for entry in journal.entries if entry.kind != "part" and config.validation is None]
    in_full = max([*counts, *(each.evaluation.n_samples for each in others if each.evaluation)], default=0)
    if config.batch is not None:
        in_full = min(in_full, config.batch * len(config.tasks))
    return Savings(used=sum(counts), whole=in_full * len(counts))


def _goals(run: Run) -> Goals | None:
    """Return the trade-off of several goals, if all candidates were scored on the same samples."""
    if run.objective is None or len(run.objective.all_goals) < 2 or run.config.batch is not None:
        return None
    goals = run.objective.all_goals
    names = tuple(map(str, goals))
    points = run.front(goals)
    if not points:
        return None
    on_it = {point.entry.index for point in points}
    evaluated = [(each.index, each.evaluation) for each in run.journal.candidates if each.evaluation]
    most = max(evaluation.n_samples for _, evaluation in evaluated)
    rows = [tuple(point.goals[name] for name in names) for point in points]
    return Goals(
        names=names,
        front=tuple(
            FrontRow(index=point.entry.index, recipe_id=point.entry.recipe_id, values=row)
            for point, row in zip(points, rows, strict=True)
        ),
        knee=knee(rows),
        others=tuple(
            tuple(goal.value(evaluation.scores) for goal in goals)
            for index, evaluation in evaluated
            if index not in on_it and evaluation.n_samples == most
        ),
    )


def _parents(run: Run) -> tuple[ParentRow, ...]:
    return tuple(
        ParentRow(
            source=parent.source,
            scores={name: score.score for name, score in parent.scores.items()},
            samples=sum(score.n for score in parent.scores.values()),
        )
        for parent in run.journal.parents.values()
    )
