"""One candidate of a run by what it is good at, and its recipe."""

from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import ConfigError, RunError
from evovlm.recipes.candidate import Evaluation
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.problems import did_you_mean
from evovlm.runs.config.parameters import config_from_mapping
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.folder.rows import Entry
from evovlm.runs.front import FrontPoint, front_of
from evovlm.runs.summary import journal_file, objective_of, winner_entry
from evovlm.search.pareto import knee

PICKS = "best, knee, task=NAME, or a candidate's number"
_TASK = "task="


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picked:
    """A line of a run's journal and the recipe that it is of."""

    entry: Entry
    recipe: Recipe


def pick(folder: Path, wanted: str) -> Picked:
    """Return the candidate that is `wanted` of a run, finished or not; of a hybrid, of the stage that it has come to.

    `best` is the run's winner so far, `knee` the point of its Pareto front that gives up least of each goal,
    `task=NAME` the candidate that does best on that task and breaks no constraint, a number the candidate of that
    index. Raises ConfigError for another word, an unknown task or number, RunError where there is no such candidate,
    and RunMismatch for a folder that holds no run.
    """
    journal = read_journal(journal_file(folder))
    config = config_from_mapping(journal.config)
    entry = winner_entry(config, journal) if wanted == "best" else _wanted(journal, wanted, folder=folder)
    if entry is None:
        raise RunError(f"{folder}: no candidate has been evaluated yet. Wait a little, or resume the run.")
    searched = config.searched(journal.blocks)
    return Picked(entry=entry, recipe=searched.recipe(entry.genome))


def _wanted(journal: Journal, wanted: str, *, folder: Path) -> Entry | None:
    if wanted.isascii() and wanted.isdigit():
        candidates = journal.candidates
        if int(wanted) >= len(candidates):
            raise ConfigError(f"--pick {wanted}: {folder} has {len(candidates)} candidates, the first of them 0.")
        return candidates[int(wanted)]
    objective = objective_of(journal)
    if objective is None:
        return None
    if wanted == "knee":
        points = front_of(journal, goals=objective.tasks if objective.pareto else ())
        if not points:
            raise RunError(
                f"--pick knee: {folder} has no Pareto front (`objective: {{pareto: true}}`), or nothing is on it yet.\n"
                "    Pick best, task=NAME, or a candidate's number."
            )
        return points[knee([tuple(point.goals.values()) for point in points])].entry
    if not wanted.startswith(_TASK):
        raise ConfigError(f"--pick: '{wanted}' is none of {PICKS}.")
    name = wanted.removeprefix(_TASK)
    if name not in objective.weights:
        raise ConfigError(f"--pick {wanted}: {folder} scores no such task{did_you_mean(name, objective.weights)}")
    points = front_of(journal, goals=(name,))
    if not points:
        raise RunError(f"--pick {wanted}: no candidate of {folder} keeps every constraint.")
    return max(points, key=_fitness).entry


def _fitness(point: FrontPoint) -> float:
    return point.entry.outcome.fitness if isinstance(point.entry.outcome, Evaluation) else 0.0
