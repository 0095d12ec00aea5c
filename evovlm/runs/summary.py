"""A run's folder read for people: the best candidates, the winner's numbers, the course of the search."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import RunMismatch
from evovlm.recipes.candidate import Evaluation, Failure, TaskScore
from evovlm.recipes.recipe import SourceParameters, value_at
from evovlm.recipes.search_space import PARAMETERS, unit_name
from evovlm.runs.config import EvolveConfig, config_from_mapping
from evovlm.runs.evolve import JOURNAL_FILE
from evovlm.runs.journal import Entry, read_journal


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRow:
    """One candidate of the table."""

    index: int
    recipe_id: str
    fitness: float
    scores: Mapping[str, TaskScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a journal says. `numbers` are (source, parameter, one value per unit of `units`) of the best recipe."""

    folder: Path
    candidates: int
    tokens: int
    seconds: float
    top: tuple[CandidateRow, ...]
    units: tuple[str, ...]
    numbers: tuple[tuple[str, str, tuple[float, ...]], ...]
    best_by_generation: tuple[float, ...]
    mean_by_generation: tuple[float, ...]
    failures: tuple[tuple[int, str], ...]

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return {
            "folder": str(self.folder),
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
            "best_by_generation": list(self.best_by_generation),
            "mean_by_generation": list(self.mean_by_generation),
            "failures": [{"index": index, "reason": reason} for index, reason in self.failures],
        }


def summarise(folder: Path, *, top: int) -> RunSummary:
    """Read a run, finished or not. Raises RunMismatch for a folder without a journal or without a scored candidate."""
    path = folder / JOURNAL_FILE
    if not path.is_file():
        raise RunMismatch(f"{folder}: holds no {JOURNAL_FILE}; name the folder that `evovlm evolve --out` wrote.")
    entries, mapping = read_journal(path)
    candidates = [entry for entry in entries if entry.kind == "candidate"]
    rows = sorted(
        (
            CandidateRow(
                index=entry.index,
                recipe_id=entry.recipe_id,
                fitness=entry.outcome.fitness,
                scores=entry.outcome.scores,
            )
            for entry in candidates
            if isinstance(entry.outcome, Evaluation)
        ),
        key=lambda row: (-row.fitness, row.index),
    )
    if not rows:
        raise RunMismatch(f"{folder}: no candidate has been scored yet.")
    config = config_from_mapping(mapping)
    units, numbers = _numbers(config, next(entry for entry in candidates if entry.index == rows[0].index))
    best, mean = _course(candidates)
    evaluations = [entry.outcome for entry in entries if isinstance(entry.outcome, Evaluation)]
    return RunSummary(
        folder=folder,
        candidates=len(candidates),
        tokens=sum(evaluation.tokens for evaluation in evaluations),
        seconds=sum(sum(evaluation.seconds.values()) for evaluation in evaluations),
        top=tuple(rows[:top]),
        units=units,
        numbers=numbers,
        best_by_generation=best,
        mean_by_generation=mean,
        failures=tuple(
            (entry.index, entry.outcome.reason) for entry in candidates if isinstance(entry.outcome, Failure)
        ),
    )


def _numbers(
    config: EvolveConfig, entry: Entry
) -> tuple[tuple[str, ...], tuple[tuple[str, str, tuple[float, ...]], ...]]:
    """Return the units and the numbers of a candidate; the number of blocks follows from the number of genes."""
    per_block = config.search_space(n_blocks=1).dim - config.search_space(n_blocks=0).dim
    n_blocks = (len(entry.genome) - config.search_space(n_blocks=0).dim) // per_block if per_block else 0
    decoded: Mapping[str, SourceParameters] = config.search_space(n_blocks=n_blocks).decode(entry.genome)
    units = tuple(unit_name(unit, n_blocks=n_blocks) for unit in range(n_blocks + 2)) if per_block else ("all units",)
    numbers = tuple(
        (source, parameter, tuple(value_at(getattr(decoded[source], parameter), unit) for unit in range(len(units))))
        for source in sorted(decoded)
        for parameter in PARAMETERS
    )
    return units, numbers


def _course(candidates: list[Entry]) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
