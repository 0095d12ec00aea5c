"""A run's folder read for people: the best candidates, the winner's numbers, the course of the search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import RunError, RunMismatch
from evovlm.merging.methods import METHODS
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.recipes.kinds import PS
from evovlm.recipes.layer_path import LayerPath
from evovlm.recipes.recipe import ParameterMerge, value_at
from evovlm.recipes.search_space import unit_name
from evovlm.runs.config import EvolveConfig, config_from_mapping
from evovlm.runs.folder import JOURNAL_FILE
from evovlm.runs.hybrid_config import PATH
from evovlm.runs.journal import Entry, Journal, read_journal
from evovlm.runs.path_config import PathConfig
from evovlm.runs.search_config import SearchConfig
from evovlm.runs.winner import Rescored, rescored, winner_of

ALL = "all units"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One candidate of the table."""

    index: int
    recipe_id: str
    fitness: float
    scores: Mapping[str, TaskScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a journal says; every fitness is on the search split.

    `numbers` are (source, parameter, one value per unit of `units`) of the `winner`: the best candidate so far, or the
    distribution's mean where the config asks for it and the run is finished, or the best snapshot so far where it asks
    for that; of a search through layers it is the winner's `path`. `mean_fitness` is the last mean's. Of a run that
    scores its best `rescored`, the winner is the best of these and the mean, once it has them.
    """

    folder: Path
    finished: bool
    winner: str
    mean_fitness: float | None
    candidates: int
    tokens: int
    seconds: float
    top: tuple[CandidateRow, ...]
    units: tuple[str, ...]
    numbers: tuple[tuple[str, str, tuple[float, ...]], ...]
    path: LayerPath | None
    best_by_generation: tuple[float, ...]
    mean_by_generation: tuple[float, ...]
    failures: tuple[tuple[int, str], ...]
    rescored: tuple[Rescored, ...]

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "folder": str(self.folder),
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
                }
                for row in self.top
            ],
            "units": list(self.units),
            "numbers": [
                {"source": source, "parameter": parameter, "values": list(values)}
                for source, parameter, values in self.numbers
            ],
            "path": self.path.canonical() if self.path else None,
            "best_by_generation": list(self.best_by_generation),
            "mean_by_generation": list(self.mean_by_generation),
            "failures": [{"index": index, "reason": reason} for index, reason in self.failures],
            **({"rescored": [each.as_json() for each in self.rescored]} if self.rescored else {}),
        }


def summarise(folder: Path, *, top: int) -> RunSummary:
    """Read a run, finished or not, or the stage that a hybrid has come to.

    One whose candidates all failed so far has no `top` and no `numbers`. Raises RunMismatch for a folder without a
    journal, or with one that holds no candidate yet.
    """
    journal = read_journal(_journal_file(folder))
    candidates = journal.candidates
    if not candidates:
        raise RunMismatch(f"{folder}: no candidate has been evaluated yet. Wait a little, or resume the run.")
    config = config_from_mapping(journal.config)
    ranked = _ranked(candidates)
    mean = journal.mean
    winner = _winner(config, journal)
    units, numbers = _numbers(config, winner) if winner is not None and isinstance(config, EvolveConfig) else ((), ())
    best, means = _course(candidates)
    entries = [entry for entry in journal.entries if entry.kind != "part"]
    outcomes = [entry.outcome for entry in entries]
    return RunSummary(
        folder=folder,
        finished=mean is not None,
        winner="best" if winner is None or winner.kind in ("candidate", "rescored") else winner.kind,
        mean_fitness=mean.outcome.fitness if mean is not None and isinstance(mean.outcome, Evaluation) else None,
        candidates=len(candidates),
        tokens=journal.tokens,
        seconds=sum(sum(outcome.seconds.values()) for outcome in outcomes if isinstance(outcome, Evaluation)),
        top=tuple(ranked[:top]),
        units=units,
        numbers=numbers,
        path=_path(config, journal, winner) if winner is not None else None,
        best_by_generation=best,
        mean_by_generation=means,
        failures=tuple((entry.index, entry.outcome.reason) for entry in entries if isinstance(entry.outcome, Failure)),
        rescored=rescored(journal),
    )


def _journal_file(folder: Path) -> Path:
    """Return the journal of a run; of a hybrid, that of the stage that it has come to."""
    for inner in (folder, folder / PATH, folder / PS):
        if (inner / JOURNAL_FILE).is_file():
            return inner / JOURNAL_FILE
    raise RunMismatch(f"{folder} holds no {JOURNAL_FILE}. Name the folder that `evovlm evolve --out` wrote.")


def _ranked(candidates: Sequence[Entry]) -> list[CandidateRow]:
    rows = [
        CandidateRow(
            index=entry.index, recipe_id=entry.recipe_id, fitness=entry.outcome.fitness, scores=entry.outcome.scores
        )
        for entry in candidates
        if isinstance(entry.outcome, Evaluation)
    ]
    return sorted(rows, key=lambda row: (-row.fitness, row.index))


def _winner(config: SearchConfig, journal: Journal) -> Entry | None:
    """Return the winner so far, None when all failed."""
    try:
        return winner_of(journal, winner=config.winner)
    except RunError:
        return None


def _path(config: SearchConfig, journal: Journal, winner: Entry) -> LayerPath | None:
    if not isinstance(config, PathConfig):
        return None
    searched = config.searched(template=config.template(relative_to=None), blocks=journal.blocks)
    recipe = searched.recipe(winner.genome)
    return None if isinstance(recipe, ParameterMerge) else recipe.path


def _numbers(
    config: EvolveConfig, entry: Entry
) -> tuple[tuple[str, ...], tuple[tuple[str, str, tuple[float, ...]], ...]]:
    """Return the units and the numbers of a candidate."""
    space = config.search_space_of(entry.genome)
    decoded = space.decode(entry.genome)
    by_unit = any(gene.unit is not None for gene in space.genes)
    units = tuple(unit_name(unit, n_blocks=space.n_blocks) for unit in range(space.n_blocks + 2)) if by_unit else (ALL,)
    numbers = tuple(
        (source, parameter, tuple(value_at(getattr(decoded[source], parameter), unit) for unit in range(len(units))))
        for source in sorted(decoded)
        for parameter in METHODS[config.merge.method].parameters
    )
    return units, numbers


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
