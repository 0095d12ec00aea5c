"""A run's folder as values: its config, every candidate with its recipe, the winner."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.parameters import EvolveConfig, config_from_mapping
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.config.search import Searched
from evovlm.runs.folder.journal import Entry, read_journal
from evovlm.runs.summary import journal_file, winner_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCandidate:
    """One candidate; `index` and `generation` count from 0, `scores` are by task, all on the search split.

    One that failed has no `fitness`, no `scores`, and the reason as its `failure`.
    """

    index: int
    generation: int
    recipe: Recipe
    fitness: float | None
    scores: Mapping[str, TaskScore]
    failure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run, finished or not; `winner` is as the config chooses it, of what there is so far (None: all failed).

    `fitness` is the winner's, on the search split (of a snapshot: on its validation samples).
    """

    folder: Path
    finished: bool
    config: EvolveConfig | PathConfig
    candidates: tuple[RunCandidate, ...]
    winner: Recipe | None
    fitness: float | None


def load_run(folder: str | Path) -> LoadedRun:
    """Read a run's folder, of a hybrid the stage that it has come to; the run may still be going on.

    Raises RunMismatch for a folder without a journal.

    >>> import evovlm
    >>> run = evovlm.load_run("run")
    >>> run.finished, len(run.candidates), run.config.merge.method
    (True, 4, 'dare_ties')
    >>> best = max(run.candidates, key=lambda candidate: candidate.fitness)
    >>> best.recipe == run.winner
    True
    >>> sorted(run.winner.parameters)
    ['ja', 'math']
    """
    journal = read_journal(journal_file(Path(folder)))
    config = config_from_mapping(journal.config)
    searched = config.searched(journal.blocks)
    chosen = winner_entry(config, journal)
    return LoadedRun(
        folder=Path(folder),
        finished=journal.mean is not None,
        config=config,
        candidates=tuple(_candidate(entry, searched) for entry in journal.candidates),
        winner=None if chosen is None else searched.recipe(chosen.genome),
        fitness=chosen.outcome.fitness if chosen is not None and isinstance(chosen.outcome, Evaluation) else None,
    )


def _candidate(entry: Entry, searched: Searched) -> RunCandidate:
    outcome = entry.outcome
    return RunCandidate(
        index=entry.index,
        generation=entry.generation,
        recipe=searched.recipe(entry.genome),
        fitness=outcome.fitness if isinstance(outcome, Evaluation) else None,
        scores=outcome.scores if isinstance(outcome, Evaluation) else {},
        failure=outcome.reason if isinstance(outcome, Failure) else None,
    )
