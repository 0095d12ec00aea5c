"""One search with its folder: config.yaml, journal.jsonl, best.yaml, mean.yaml, result.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from evovlm.errors import EvovlmError, RunError, RunMismatch
from evovlm.evaluation.answering import TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.recipes.candidate import Evaluation, Failure, Genome
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge
from evovlm.recipes.search_space import SearchSpace
from evovlm.runs.atomic import write_atomically
from evovlm.runs.config import EvolveConfig
from evovlm.runs.folder import (
    BEST_FILE,
    CONFIG_FILE,
    JOURNAL_FILE,
    MEAN_FILE,
    RESULT_FILE,
    check_config,
    check_folder,
    locked,
)
from evovlm.runs.journal import Entry, Journal, read_journal
from evovlm.runs.preflight import preflight_search
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.loop import Generation, Outcome, Proposal, search

__all__ = ["BEST_FILE", "MEAN_FILE", "Observer", "RunResult", "best_entry", "evolve", "open_evaluator"]


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
    """Run a search in the folder `out`, or go on with the one that is there; a finished one only tells its result.

    Relative models and data of the config start at `relative_to`. An evaluator that is already open for this config may
    be passed in. Raises OutputExists for a folder that exists without `resume`, RunMismatch when the folder's config is
    another, RunError when another process runs there, AllCandidatesFailed when a generation has only failures, and
    what opening the models raises.
    """
    config = config.resolved(relative_to=relative_to)
    template = config.template(relative_to=None)
    check_folder(out, resume=resume)
    if (out / JOURNAL_FILE).exists():
        check_config(out, recorded=read_journal(out / JOURNAL_FILE).config, given=config.as_mapping())
    with locked(out):
        # Looked at again: only now may nobody else write here.
        check_folder(out, resume=resume)
        journal = Journal.open(out / JOURNAL_FILE) if (out / JOURNAL_FILE).exists() else None
        if journal is None or journal.mean is None:
            warnings: tuple[str, ...] = ()
            if evaluator is None:
                # Models that do not fit are refused before their weights are fetched.
                found = preflight_search(config, template)
                found.raise_problems()
                warnings = found.warnings
                evaluator = open_evaluator(config, template)
            warnings = tuple(dict.fromkeys((*evaluator.warnings, *warnings)))
            space = config.search_space(n_blocks=evaluator.n_blocks)
            population = config.population(dim=space.dim)
            if journal is None:
                write_atomically(out / CONFIG_FILE, config.to_yaml())
                journal = Journal.create(out / JOURNAL_FILE, config=config.as_mapping())
            run = _Run(config=config, template=template, space=space, evaluator=evaluator, journal=journal)
            run.finish(population=population, observer=observer, warnings=warnings)
        return _written_result(out, config=config, template=template, journal=journal)


def open_evaluator(config: EvolveConfig, template: MergeTemplate) -> Evaluator:
    """Open the models and tasks of a config."""
    choices = [
        TaskChoice(
            name=task.name,
            decoding=task.decoding,
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

    def finish(self, *, population: int, observer: Observer | None, warnings: tuple[str, ...]) -> None:
        """Evaluate what the journal lacks, up to the distribution's mean."""
        generations = self.config.budget.candidates // population
        self._take_back_a_failed_generation(population)
        recorded = self.journal.candidates
        known = {entry.recipe_id: entry.outcome for entry in recorded}
        if observer is not None:
            observer.started(
                candidates=generations * population,
                generations=generations,
                done=len(recorded),
                warnings=warnings,
            )

        def evaluate(proposal: Proposal) -> Outcome:
            if proposal.index < len(recorded):
                entry = recorded[proposal.index]
                self._check_replayed(entry, proposal)
            else:
                entry = self._append("candidate", proposal.genome, generation=proposal.generation, known=known)
                known.setdefault(entry.recipe_id, entry.outcome)
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
        self._append("mean", means[-1], generation=generations, known=known)

    def _take_back_a_failed_generation(self, population: int) -> None:
        """Let a generation that stopped the run, as all of it failed, be tried again: its cause may be mended."""
        recorded = self.journal.candidates
        last = recorded[-population:]
        whole = len(recorded) % population == 0
        if last and whole and all(isinstance(entry.outcome, Failure) for entry in last):
            self.journal.retry(last[0].generation)

    def _check_replayed(self, entry: Entry, proposal: Proposal) -> None:
        same_recipe = entry.recipe_id == self._recipe(proposal.genome).recipe_id
        if not same_recipe or not np.array_equal(entry.genome, proposal.genome):
            raise RunMismatch(
                f"{self.journal.path}: candidate {entry.index} is not the one that this search asks for now.\n"
                "    The journal was changed, or written by other versions of the packages. Go on with those, or "
                "start a new run in another folder."
            )

    def _append(self, kind: str, genome: Genome, *, generation: int, known: Mapping[str, Outcome]) -> Entry:
        recipe = self._recipe(genome)
        outcome = known.get(recipe.recipe_id)
        if outcome is None:
            outcome = self._evaluated(recipe)
        elif isinstance(outcome, Evaluation):
            # Known, so that it cost nothing this time.
            outcome = replace(outcome, seconds={}, tokens=0)
        entry = Entry(
            kind=kind,
            index=len(self.journal.entries),
            generation=generation,
            genome=genome,
            recipe_id=recipe.recipe_id,
            outcome=outcome,
        )
        self.journal.append(entry)
        return entry

    def _evaluated(self, recipe: ParameterMerge) -> Outcome:
        try:
            return self.evaluator.evaluate(recipe)
        except EvovlmError as error:
            # A recipe that cannot be merged (every weight 0, say) is one candidate's failure, not the run's.
            return Failure(kind=type(error).__name__, reason=str(error))

    def _recipe(self, genome: Genome) -> ParameterMerge:
        return self.template.recipe(self.space.decode(genome))


def _written_result(out: Path, *, config: EvolveConfig, template: MergeTemplate, journal: Journal) -> RunResult:
    """Write best.yaml, mean.yaml and result.json of a finished search."""
    best, mean = best_entry(journal.candidates), journal.mean
    if mean is None:
        raise RunError(f"{out}: the search is not finished.")
    space = config.search_space_of(best.genome)
    recipes = {
        name: template.recipe(space.decode(entry.genome)) for name, entry in ((BEST_FILE, best), (MEAN_FILE, mean))
    }
    for name, recipe in recipes.items():
        write_atomically(out / name, recipe_to_yaml(recipe, folder=out))
    chosen = best if config.winner == "best" else mean
    if isinstance(chosen.outcome, Failure):
        raise RunError(
            f"{out}: the distribution's mean, asked for as the winner, could not be evaluated "
            f"({chosen.outcome.reason}).\n    The best candidate is in {out / BEST_FILE}."
        )
    outcomes = [entry.outcome for entry in journal.entries]
    result = RunResult(
        folder=out,
        winner=config.winner,
        recipe=recipes[BEST_FILE if config.winner == "best" else MEAN_FILE],
        fitness=chosen.outcome.fitness,
        evaluation=chosen.outcome,
        candidates=len(journal.candidates),
        failures=sum(isinstance(entry.outcome, Failure) for entry in journal.candidates),
        tokens=sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Evaluation)),
    )
    write_atomically(out / RESULT_FILE, json.dumps(result.as_json(), ensure_ascii=False, indent=1) + "\n")
    return result


def best_entry(entries: tuple[Entry, ...]) -> Entry:
    """Return the entry of the highest fitness, the earliest of equals. Raises RunError when all failed."""
    evaluated = [
        (entry.outcome.fitness, -entry.index, entry) for entry in entries if isinstance(entry.outcome, Evaluation)
    ]
    if not evaluated:
        raise RunError("no candidate could be evaluated.")
    return max(evaluated, key=lambda row: row[:2])[2]
