"""One search with its folder: config.yaml, journal.jsonl, best.yaml, mean.yaml, result.json."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evovlm.errors import EvovlmError, OutputExists, RunError, RunMismatch
from evovlm.evaluation.answering import TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure, Genome
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.search_space import SearchSpace
from evovlm.runs.config import EvolveConfig
from evovlm.runs.journal import Entry, Journal
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.loop import Generation, Outcome, Proposal, search

CONFIG_FILE = "config.yaml"
JOURNAL_FILE = "journal.jsonl"
BEST_FILE = "best.yaml"
MEAN_FILE = "mean.yaml"
RESULT_FILE = "result.json"


class Observer(Protocol):
    """Watches a run: what a progress display needs."""

    def started(self, *, candidates: int, generations: int, done: int, warnings: tuple[str, ...]) -> None:
        """The run is set up; `done` candidates are replayed from the journal."""
        ...

    def evaluated(self, entry: Entry) -> None:
        """A candidate has its outcome (a replayed one too)."""
        ...

    def generation_ended(self, generation: Generation) -> None:
        """A generation was told."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run found. `fitness` is on the search split, of the winner that the config chose (best or mean)."""

    folder: Path
    winner: str
    recipe: ParameterMerge
    fitness: float
    evaluation: Evaluation
    candidates: int
    failures: int
    tokens: int

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        scores = {
            name: {"score": score.score, "ungated": score.ungated, "japanese": score.japanese, "n": score.n}
            for name, score in self.evaluation.scores.items()
        }
        return {
            "folder": str(self.folder),
            "winner": self.winner,
            "recipe": str(self.folder / (BEST_FILE if self.winner == "best" else MEAN_FILE)),
            "recipe_id": self.recipe.recipe_id,
            "search_fitness": self.fitness,
            "search_scores": scores,
            "candidates": self.candidates,
            "failures": self.failures,
            "tokens": self.tokens,
        }


def evolve(
    config: EvolveConfig,
    *,
    out: Path,
    relative_to: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    evaluator: Evaluator | None = None,
) -> RunResult:
    """Run a search in the folder `out`, or go on with the one that is there.

    Relative models of the config start at `relative_to`. An evaluator that is already open for this config may be
    passed in. Raises OutputExists for a folder that exists without `resume`, RunMismatch when the folder's config is
    another, AllCandidatesFailed when a generation has only failures, and what opening the models raises.
    """
    template = config.template(relative_to=relative_to)
    _check_folder(out, resume=resume)
    journal = _resumed(out, config) if resume and (out / JOURNAL_FILE).exists() else None
    if evaluator is None:
        evaluator = open_evaluator(config, template)
    space = config.search_space(n_blocks=evaluator.n_blocks)
    config.population(dim=space.dim)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if journal is None:
            _write(out / CONFIG_FILE, config.to_yaml())
            journal = Journal.create(out / JOURNAL_FILE, config=config.as_mapping())
        run = _Run(config=config, template=template, space=space, evaluator=evaluator, journal=journal)
        return run.finish(out, observer)


def open_evaluator(config: EvolveConfig, template: MergeTemplate) -> Evaluator:
    """Open the models and tasks of a config."""
    choices = [
        TaskChoice(
            name=task.name,
            limit=task.limit,
            weight=task.weight,
            data=Path(task.data) if task.data is not None else None,
        )
        for task in config.tasks
    ]
    return Evaluator.open(template, tasks=choices, device=config.device)


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    config: EvolveConfig
    template: MergeTemplate
    space: SearchSpace
    evaluator: Evaluator
    journal: Journal

    def finish(self, out: Path, observer: Observer | None) -> RunResult:
        population = self.config.population(dim=self.space.dim)
        generations = self.config.budget.candidates // population
        recorded = {entry.index: entry for entry in self.journal.entries if entry.kind == "candidate"}
        known = {entry.recipe_id: entry.outcome for entry in self.journal.entries}
        if observer is not None:
            observer.started(
                candidates=generations * population,
                generations=generations,
                done=len(recorded),
                warnings=self.evaluator.warnings,
            )

        def evaluate(proposal: Proposal) -> Outcome:
            recipe = self.template.recipe(self.space.decode(proposal.genome))
            entry = recorded.get(proposal.index)
            if entry is None:
                entry = self._new_entry(
                    "candidate", proposal.index, proposal.generation, proposal.genome, recipe, known
                )
                self.journal.append(entry)
                known[entry.recipe_id] = entry.outcome
            elif not np.array_equal(entry.genome, proposal.genome):
                raise RunMismatch(
                    f"{self.journal.path}: candidate {proposal.index} is not what this config asks for now.\n"
                    "    It was written by another version or edited; start a new run."
                )
            if observer is not None:
                observer.evaluated(entry)
            return entry.outcome

        means: list[Genome] = []

        def on_generation(generation: Generation) -> None:
            means.append(generation.mean)
            if observer is not None:
                observer.generation_ended(generation)

        optimizer = OPTIMIZERS[self.config.optimizer.kind](
            self.space.initial,
            seed=self.config.seed,
            population=self.config.optimizer.population,
            sigma=self.config.optimizer.sigma,
        )
        search(optimizer, generations=generations, evaluate=evaluate, on_generation=on_generation)
        mean = self._mean_entry(means[-1], generations, known)
        return self._result(out, mean)

    def _new_entry(
        self,
        kind: str,
        index: int,
        generation: int,
        genome: Genome,
        recipe: ParameterMerge,
        known: Mapping[str, Outcome],
    ) -> Entry:
        outcome = known.get(recipe.recipe_id)
        if outcome is None:
            outcome = self._evaluated(recipe)
        return Entry(
            kind=kind,
            index=index,
            generation=generation,
            genome=genome,
            recipe_id=recipe.recipe_id,
            outcome=outcome,
        )

    def _evaluated(self, recipe: ParameterMerge) -> Outcome:
        try:
            return self.evaluator.evaluate(recipe)
        except EvovlmError as error:
            # A recipe that cannot be merged (every weight 0, say) is one candidate's failure, not the run's.
            return Failure(kind=type(error).__name__, reason=str(error))

    def _mean_entry(self, genome: Genome, generations: int, known: Mapping[str, Outcome]) -> Entry:
        recorded = [entry for entry in self.journal.entries if entry.kind == "mean"]
        if recorded:
            return recorded[-1]
        recipe = self.template.recipe(self.space.decode(genome))
        entry = self._new_entry("mean", len(self.journal.entries), generations, genome, recipe, known)
        self.journal.append(entry)
        return entry

    def _result(self, out: Path, mean: Entry) -> RunResult:
        candidates = [entry for entry in self.journal.entries if entry.kind == "candidate"]
        best = best_entry(candidates)
        chosen = best if self.config.winner == "best" else mean
        if isinstance(chosen.outcome, Failure):
            raise RunError(f"{out}: the distribution's mean failed ({chosen.outcome.reason}). Set `winner: best`.")
        for name, entry in ((BEST_FILE, best), (MEAN_FILE, mean)):
            _write(out / name, recipe_to_yaml(self._recipe(entry), folder=out))
        evaluations = [entry.outcome for entry in self.journal.entries if isinstance(entry.outcome, Evaluation)]
        result = RunResult(
            folder=out,
            winner=self.config.winner,
            recipe=self._recipe(chosen),
            fitness=chosen.outcome.fitness,
            evaluation=chosen.outcome,
            candidates=len(candidates),
            failures=sum(isinstance(entry.outcome, Failure) for entry in candidates),
            tokens=sum(evaluation.tokens for evaluation in evaluations),
        )
        _write(out / RESULT_FILE, json.dumps(result.as_json(), ensure_ascii=False, indent=1) + "\n")
        return result

    def _recipe(self, entry: Entry) -> ParameterMerge:
        return self.template.recipe(self.space.decode(entry.genome))


def best_entry(entries: list[Entry]) -> Entry:
    """Return the entry of the highest fitness, the earliest of equals. Raises RunError when all failed."""
    evaluated = [
        (entry.outcome.fitness, -entry.index, entry) for entry in entries if isinstance(entry.outcome, Evaluation)
    ]
    if not evaluated:
        raise RunError("no candidate could be evaluated.")
    return max(evaluated, key=lambda row: row[:2])[2]


def _check_folder(out: Path, *, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputExists(f"{out} is a file; name a folder.")
    if not resume and out.exists() and any(out.iterdir()):
        advice = "Add --resume to go on with it, or name" if (out / JOURNAL_FILE).exists() else "Name"
        raise OutputExists(f"{out} exists already.\n    {advice} another folder.")
    if (
        resume
        and not (out / JOURNAL_FILE).exists()
        and out.exists()
        and any(child.name not in (CONFIG_FILE, ".lock") for child in out.iterdir())
    ):
        raise RunMismatch(f"{out}: holds no journal to go on with. Name the folder of a run.")


def _resumed(out: Path, config: EvolveConfig) -> Journal:
    journal, recorded = Journal.open(out / JOURNAL_FILE)
    changes = changed_keys(recorded, config.as_mapping())
    if changes:
        listed = "\n    ".join(changes)
        raise RunMismatch(
            f"{out}: was started with another config:\n    {listed}\n"
            "    Undo the change to go on with the run, or start a new one in another folder."
        )
    return journal


def changed_keys(before: object, now: object, *, place: str = "") -> list[str]:
    """Return "key: old -> new" for everything in which two configs, as plain values, differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: list[str] = []
        for key in [*before, *(key for key in now if key not in before)]:
            inner = f"{place}.{key}" if place else str(key)
            found += changed_keys(before.get(key, "(absent)"), now.get(key, "(absent)"), place=inner)
        return found
    return [] if before == now else [f"{place}: {before} -> {now}"]


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{out}: another process is running this search. Wait for it, or stop it.") from error
        yield


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
