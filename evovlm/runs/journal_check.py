"""Checks that a journal's scores were not changed: the figures of each line must agree with each other."""

import math
from collections.abc import Callable

from evovlm.evaluation.objective import Objective
from evovlm.recipes.candidate import Evaluation, Genome, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.journal import Journal, changed

_PER_SAMPLE = 1e-6
"""Scores of samples are rounded to six places, so their mean may differ this much from the score."""
_ROUNDING = 1e-9


def check_journal(journal: Journal, config: SearchConfig) -> None:
    """Check every evaluation against its own figures and the objective of the run's config.

    Raises RunMismatch, with the line, where a score is not the mean of its samples, a fitness does not follow from the
    scores, or the scores of a parent are missing.
    """
    for source in config.objective.parents:
        if source not in journal.parents:
            if journal.entries:
                raise changed(journal.path, 2, f"the line of kind parent with the scores of {source} is missing")
            return
    check_scores(journal, config.goal(journal.parents))


def check_scores(journal: Journal, objective: Objective) -> None:
    """Raise RunMismatch, with the line, where an evaluation does not follow from the scores of its samples."""
    # The fitness of a candidate that raced is an estimate of what it scores on more samples than it saw.
    raced = {entry.index for entry in journal.parts}
    for entry in journal.entries:
        if entry.evaluation and entry.line is not None:
            is_estimate = entry.kind == "candidate" and entry.index in raced
            found = _difference(entry.evaluation, objective, is_estimate=is_estimate)
            if found:
                raise changed(journal.path, entry.line, f"{entry.kind} {entry.index}: {found}")


def check_recipes(journal: Journal, recipe_of: Callable[[Genome], Recipe]) -> None:
    """Raise RunMismatch, with the line, where a genome does not decode to the recipe that the line names.

    This is for a finished search; in a search that continues, each candidate is compared with the optimizer's proposal.
    """
    for entry in journal.entries:
        found = recipe_of(entry.genome).recipe_id
        if found != entry.recipe_id and entry.line is not None:
            reason = f"its genome decodes to the recipe {found}, but {entry.recipe_id} was scored"
            raise changed(journal.path, entry.line, f"{entry.kind} {entry.index}: {reason}")


def _difference(evaluation: Evaluation, objective: Objective, *, is_estimate: bool) -> str | None:
    """Return the first figure that does not fit, with the expected one; None if all fit."""
    missing = [name for name in objective.weights if name not in evaluation.scores]
    if missing:
        return f"it does not have a score of {missing[0]}, which the search scores"
    for name, score in evaluation.scores.items():
        found = _of_samples(name, score)
        if found:
            return found
    if is_estimate:
        return None
    expected = objective.fitness(evaluation.scores)
    if not math.isclose(expected, evaluation.fitness, abs_tol=_ROUNDING):
        return f"its fitness is {evaluation.fitness!r}, but its scores give {expected!r}"
    goals = objective.goals(evaluation.scores)
    if len(goals) != len(evaluation.goals) or not all(map(_is_close, goals, evaluation.goals)):
        return f"its goals are {list(evaluation.goals)}, but its scores give {list(goals)}"
    return None


def _of_samples(name: str, score: TaskScore) -> str | None:
    mean = sum(score.per_sample) / score.n
    if not math.isclose(mean, score.score, abs_tol=_PER_SAMPLE):
        return f"scores.{name}.score is {score.score!r}, but the mean of its per_sample is {mean!r}"
    return None


def _is_close(first: float, second: float) -> bool:
    return math.isclose(first, second, abs_tol=_ROUNDING)
