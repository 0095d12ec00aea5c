"""A run's folder read for people: the best candidates, the winner's numbers, the course of the search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import RunError, RunMismatch
from evovlm.evaluation.objective import Objective
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.recipes.kinds import PS
from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import ParameterMerge
from evovlm.runs.config.hybrid import PATH
from evovlm.runs.config.parameters import EvolveConfig, config_from_mapping
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.journal import Entry, Journal, changed, read_journal
from evovlm.runs.folder.journal_check import check_scores
from evovlm.runs.folder.layout import JOURNAL_FILE
from evovlm.runs.front import FrontPoint, front_of
from evovlm.runs.winner import Rescored, rescored, winner_of
from evovlm.runs.winner_numbers import WinnerNumbers, numbers_of_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One candidate of the table, and the constraints that it breaks."""

    index: int
    recipe_id: str
    fitness: float
    scores: Mapping[str, TaskScore]
    violated: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a journal says; every fitness is on the search split.

    `numbers` are (source, parameter, one value per unit of `units`) of the `winner`: the best candidate so far, or the
    distribution's mean where the config asks for it and the run is finished, or the best snapshot so far where it asks
    for that; of a search through layers it is the winner's `path`, and `is_host` where that is the host as it is.
    Where components differ, a parameter is followed by its component, and a value is None where a unit has no such
    tensors. `chosen` is what the winner has of the space's choices. `mean_fitness` is the last mean's. `stage` is that
    of a hybrid that all this is of. With `batch`, each generation has other samples. `snapshots` are the means'
    fitnesses on the validation samples, failed ones left out. `stopped_by` is the key of the budget that ended the
    search. `constraints` are in words, `infeasible` counts the candidates that break one, and `front` is the Pareto
    front over the tasks `goals`, both empty where nothing is traded. Of a run that scores its best
    `rescored`, the winner is the best of these and the mean, once it has them.
    """

    folder: Path
    stage: str | None
    batch: int | None
    finished: bool
    winner: str
    mean_fitness: float | None
    candidates: int
    tokens: int
    seconds: float
    top: tuple[CandidateRow, ...]
    units: tuple[str, ...]
    numbers: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    chosen: Mapping[str, object]
    path: LayerPath | None
    is_host: bool
    snapshots: tuple[float, ...]
    best_by_generation: tuple[float, ...]
    mean_by_generation: tuple[float, ...]
    failures: tuple[tuple[int, str], ...]
    stopped_by: str | None
    constraints: tuple[str, ...]
    infeasible: int
    goals: tuple[str, ...]
    front: tuple[FrontPoint, ...]
    rescored: tuple[Rescored, ...]

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "folder": str(self.folder),
            "stage": self.stage,
            "batch": self.batch,
            "finished": self.finished,
            "winner": self.winner,
            "mean_fitness": self.mean_fitness,
            "candidates": self.candidates,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "top": [
                {
                    "index": row.index,
                    "recipe_id": row.recipe_id,
                    "fitness": row.fitness,
                    "scores": {
                        name: {"score": score.score, "ungated": score.ungated, "japanese": score.japanese, "n": score.n}
                        for name, score in row.scores.items()
                    },
                    "violated": list(row.violated),
                }
                for row in self.top
            ],
            "units": list(self.units),
            "numbers": [
                {"source": source, "parameter": parameter, "values": list(values)}
                for source, parameter, values in self.numbers
            ],
            "chosen": dict(self.chosen),
            "path": self.path.canonical() if self.path else None,
            "is_host": self.is_host,
            "snapshots": list(self.snapshots),
            "best_by_generation": list(self.best_by_generation),
            "mean_by_generation": list(self.mean_by_generation),
            "failures": [{"index": index, "reason": reason} for index, reason in self.failures],
            "stopped_by": self.stopped_by,
            "constraints": list(self.constraints),
            "infeasible": self.infeasible,
            "goals": list(self.goals),
            "front": [point.as_json() for point in self.front],
            **({"rescored": [each.as_json() for each in self.rescored]} if self.rescored else {}),
        }


def summarise(folder: Path, *, top: int) -> RunSummary:
    """Read a run, finished or not, or the stage that a hybrid has come to.

    One whose candidates all failed so far has no `top` and no `numbers`. Raises RunMismatch for a folder without a
    journal, or with one that holds no candidate yet.
    """
    stage = _stage(folder)
    journal = read_journal(folder / (stage or "") / JOURNAL_FILE)
    candidates = journal.candidates
    if not candidates:
        raise RunMismatch(f"{folder}: no candidate has been evaluated yet. Wait a little, or resume the run.")
    config = config_from_mapping(journal.config)
    objective = objective_of(journal)
    if objective is not None:
        check_scores(journal, objective)
    goals = objective.tasks if objective is not None and objective.pareto else ()
    ranked = _ranked(candidates, objective)
    mean = journal.mean
    winner = winner_entry(config, journal)
    found = WinnerNumbers()
    if winner is not None and isinstance(config, EvolveConfig):
        found = numbers_of_entry(config, journal, winner)
    path = _path(config, journal, winner) if winner is not None else None
    best, means = _course(candidates)
    return RunSummary(
        folder=folder,
        stage=stage,
        batch=config.batch,
        # A hybrid that has come to its first stage only has the second before it.
        finished=mean is not None and stage != PS,
        winner="best" if winner is None or winner.kind in ("candidate", "rescored") else winner.kind,
        mean_fitness=mean.outcome.fitness if mean is not None and isinstance(mean.outcome, Evaluation) else None,
        candidates=len(candidates),
        tokens=journal.tokens,
        seconds=sum(entry.wall_s for entry in journal.entries),
        top=tuple(ranked[:top]),
        units=found.units,
        numbers=tuple((each.source, each.name, each.values) for each in found.numbers),
        chosen=found.chosen,
        path=path,
        is_host=path is not None and _is_host(path, config, journal),
        snapshots=tuple(entry.outcome.fitness for entry in journal.snapshots if isinstance(entry.outcome, Evaluation)),
        best_by_generation=best,
        mean_by_generation=means,
        failures=tuple(
            (entry.index, entry.outcome.reason)
            for entry in journal.entries
            if entry.kind != "part" and isinstance(entry.outcome, Failure)
        ),
        stopped_by=journal.stop.reason if journal.stop else None,
        constraints=tuple(map(str, objective.constraints)) if objective is not None else (),
        infeasible=sum(bool(row.violated) for row in ranked),
        goals=goals,
        front=front_of(journal, goals=goals),
        rescored=rescored(journal),
    )


def objective_of(journal: Journal) -> Objective | None:
    """Return what a run maximises, from what its journal holds alone; None as long as nothing has been scored."""
    first = next((entry for entry in journal.entries if isinstance(entry.outcome, Evaluation)), None)
    if first is None or not isinstance(first.outcome, Evaluation):
        return None
    config = config_from_mapping(journal.config)
    scores = first.outcome.scores
    if len(scores) != len(config.tasks):
        there = f"it has scores of {len(scores)} tasks, and the search scores {len(config.tasks)}"
        raise changed(journal.path, first.line or 0, f"{first.kind} {first.index}: {there}")
    # In the order of the config's tasks, which may be files that are no longer there.
    weights = {name: task.weight for name, task in zip(scores, config.tasks, strict=True)}
    return config.objective.objective(weights, parents=journal.parents)


def journal_file(folder: Path) -> Path:
    """Return the journal of a run; of a hybrid, that of the stage that it has come to."""
    return folder / (_stage(folder) or "") / JOURNAL_FILE


def _stage(folder: Path) -> str | None:
    """Return the stage that a hybrid has come to; None for a run that has none."""
    for stage in (None, PATH, PS):
        if (folder / (stage or "") / JOURNAL_FILE).is_file():
            return stage
    raise RunMismatch(f"{folder} holds no {JOURNAL_FILE}. Name the folder that `evovlm evolve --out` wrote.")


def _ranked(candidates: Sequence[Entry], objective: Objective | None) -> list[CandidateRow]:
    rows = [
        CandidateRow(
            index=entry.index,
            recipe_id=entry.recipe_id,
            fitness=entry.outcome.fitness,
            scores=entry.outcome.scores,
            violated=tuple(map(str, objective.violated(entry.outcome.scores))) if objective is not None else (),
        )
        for entry in candidates
        if isinstance(entry.outcome, Evaluation)
    ]
    return sorted(rows, key=lambda row: (-row.fitness, row.index))


def winner_entry(config: SearchConfig, journal: Journal) -> Entry | None:
    """Return the winner so far, None when all failed."""
    try:
        return winner_of(journal, winner=config.winner)
    except RunError:
        return None


def _path(config: SearchConfig, journal: Journal, winner: Entry) -> LayerPath | None:
    if not isinstance(config, PathConfig):
        return None
    searched = config.searched(journal.blocks)
    recipe = searched.recipe(winner.genome)
    return None if isinstance(recipe, ParameterMerge) else recipe.path


def _is_host(path: LayerPath, config: SearchConfig, journal: Journal) -> bool:
    template = config.template(relative_to=None)
    if not isinstance(template, PathTemplate):
        return False
    host = template.host_source
    return path.canonical() == [[host, layer, 1.0] for layer in range(journal.blocks[host])]


def _course(candidates: Sequence[Entry]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    best: list[float] = []
    means: list[float] = []
    for generation in range(max(entry.generation for entry in candidates) + 1):
        fitnesses = [
            entry.outcome.fitness
            for entry in candidates
            if entry.generation == generation and isinstance(entry.outcome, Evaluation)
        ]
        if fitnesses:
            best.append(max([*best[-1:], *fitnesses]))
            means.append(sum(fitnesses) / len(fitnesses))
    return tuple(best), tuple(means)
