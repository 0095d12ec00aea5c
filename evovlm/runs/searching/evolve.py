"""A search from its config to its result, in a folder of its own; the two searches of a hybrid in one folder.

A search: config.yaml, journal.jsonl, best.yaml, mean.yaml, result.json. A hybrid: config.yaml, ps/ (a search), path/ (a
search whose config holds the winner of the first), best.yaml (or mean.yaml) and result.json, which has both stages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.errors import ConfigError, OutputExists, RunError, RunMismatch
from evovlm.evaluation.engines.table import BUILTIN_ENGINE, EngineChoice, EngineId
from evovlm.evaluation.objective import Objective
from evovlm.evaluation.workers.jobs import InProcess, Workers, WorkerSettings
from evovlm.files import explained, inner_folder, write_file
from evovlm.foreign_code import require_allowed
from evovlm.recipes.candidate import Evaluation
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.runs.before.preflight import preflight_search, worker_bytes
from evovlm.runs.config.hybrid import HybridConfig, load_search
from evovlm.runs.config.kinds import config_from_mapping
from evovlm.runs.config.search import SearchConfig, Winner
from evovlm.runs.findings import FrontPoint, Rescored
from evovlm.runs.folder.entries import Parent
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.folder.layout import (
    BEST_FILE,
    CONFIG_FILE,
    JOURNAL_FILE,
    MEAN_FILE,
    RESULT_FILE,
    check_config,
    check_folder,
    locked,
    winner_file,
)
from evovlm.runs.journal_check import check_journal, check_recipes
from evovlm.runs.run import PEAK_MEMORY, Run
from evovlm.runs.samples import SampleParts
from evovlm.runs.searching.choosing import CHOICES_FILE, Choosing, Person
from evovlm.runs.searching.scoring import CandidateScoring, Races
from evovlm.runs.searching.search import Observer, Search
from evovlm.runs.workers import engine_of, open_workers, opening_of, peak_memory
from evovlm.tasks.catalogue import code_of_tasks, get_task
from evovlm.tasks.sample import Split

if TYPE_CHECKING:
    from evovlm.evaluation.evaluator import Evaluator

_RULE = "A budget may only be raised, the first stage's only until the second begins."


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run found: the winner that the config asks for (best, mean or snapshot), and how the search went.

    `fitness` is the winner's on the search split, for a snapshot on its validation samples. `stopped_by` is the key of
    the budget that ended the search, `front` the Pareto front, if the config asks for one. Where candidates were
    `rescored`, the winner is the best of them and the mean, by their new fitness. `peak_memory` is that of the process
    that finished the search, in bytes by place (see `peak_memory`).
    """

    folder: Path
    winner: Winner
    recipe: Recipe
    fitness: float
    evaluation: Evaluation
    candidates: int
    failures: int
    tokens: int
    stopped_by: str | None
    front: tuple[FrontPoint, ...]
    rescored: tuple[Rescored, ...] = ()
    peak_memory: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def search_fitness(self) -> float:
        """The winner's fitness in the search; if it was scored again, the estimate that it was chosen by."""
        own = [each.search_fitness for each in self.rescored if each.recipe_id == self.recipe.recipe_id]
        return next((fitness for fitness in own if fitness is not None), self.fitness)

    @property
    def recipe_file(self) -> Path:
        """The file of the winner's recipe."""
        return self.folder / winner_file(self.winner)

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        again: dict[str, object] = {}
        if self.rescored:
            again = {"rescored_fitness": self.fitness, "rescored": [each.as_json() for each in self.rescored]}
        return {
            "folder": str(self.folder),
            "winner": self.winner,
            "recipe": str(self.recipe_file),
            "recipe_id": self.recipe.recipe_id,
            "search_fitness": self.search_fitness,
            **again,
            "search_scores": {name: score.figures() for name, score in self.evaluation.scores.items()},
            "candidates": self.candidates,
            "failures": self.failures,
            "tokens": self.tokens,
            "stopped_by": self.stopped_by,
            "front": [point.as_json() for point in self.front],
            **({PEAK_MEMORY: dict(self.peak_memory)} if self.peak_memory else {}),
        }


def evolve(
    config: SearchConfig,
    *,
    out: Path,
    relative_to: Path | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    evaluator: Evaluator | None = None,
    person: Person | None = None,
    allow_code: bool = False,
) -> RunResult:
    """Run a search in the folder `out`, or continue the one that it holds; return the result of a finished one.

    Relative models and data of the config start at `relative_to`. An evaluator that is already open for this config may
    be passed in; otherwise the config's workers are opened, and closed when this returns or raises. `person` is asked
    where the objective is a person's choice. With `allow_code`, metric scripts and harness task files that the config
    names are run.

    Raises OutputExists if the folder exists and `resume` is not set, RunMismatch if the folder's config is another one,
    RunError if another process runs there, AllCandidatesFailed if a whole generation failed, and what opening the
    models raises.
    """
    config = config.resolved(relative_to=relative_to)
    config.log.check_installed()
    if config.objective.human is not None and person is None:
        raise ConfigError("objective.human: needs the page where a person chooses. Run it with `evovlm evolve`.")
    check_folder(out, resume=resume)
    if (out / JOURNAL_FILE).exists():
        _check_same(out, read_journal(out / JOURNAL_FILE), config)
    with locked(out):
        # Checked again: from here on, no other process writes here.
        check_folder(out, resume=resume)
        journal = Journal.open(out / JOURNAL_FILE) if (out / JOURNAL_FILE).exists() else None
        if journal is not None:
            check_journal(journal, config)
        if journal is None or journal.mean is None or _recorded(journal).budget != config.budget:
            journal = _searched(
                out, config, journal, observer=observer, evaluator=evaluator, person=person, allow_code=allow_code
            )
            # Measured once the workers have ended too.
            peak = peak_memory()
        else:
            check_recipes(journal, config.space_for(journal.blocks).decode)
            peak = None
        return _written_result(Run(folder=out, config=config, journal=journal), peak=peak)


def _searched(
    out: Path,
    config: SearchConfig,
    journal: Journal | None,
    *,
    observer: Observer | None,
    evaluator: Evaluator | None,
    person: Person | None,
    allow_code: bool,
) -> Journal:
    """Search to the end, continuing `journal` if there is one, and return the journal."""
    seen: tuple[str, ...] = ()
    memory_bytes: int | None = None
    # An evaluator that is passed in has the engine `builtin`.
    engine = BUILTIN_ENGINE
    if evaluator is None:
        require_allowed(code_of_tasks(task.name for task in config.tasks), allow_code=allow_code)
        # Models that do not fit are refused before their weights are fetched.
        found = preflight_search(config if journal is None else _as_recorded(config, journal))
        found.raise_problems()
        seen, memory_bytes = found.warnings, worker_bytes(found)
        engine = engine_of(config, recorded=None if journal is None else journal.engine).engine
    # It imports torch, after everything that can be refused without it.
    from evovlm.runs.searching.parents import measured_parents

    known = {} if journal is None else journal.parents
    parents = measured_parents(config, known=known, engine=engine, folder=out, allow_code=allow_code)
    workers: Workers
    if evaluator is None:
        workers = open_workers(
            config, parents=parents, engine=engine, folder=out, memory_bytes=memory_bytes, allow_code=allow_code
        )
    else:
        workers = InProcess(evaluator=replace(evaluator, objective=config.goal(parents)))
    with closing(workers):
        run = open_search(
            out, config=config, workers=workers, journal=journal, parents=parents, engine=engine, person=person
        )
        warnings = tuple(dict.fromkeys((*workers.warnings, *seen, *config.notes_for(run.space))))
        with _tracked(observer, config=config, out=out) as watching:
            run.finish(observer=watching, warnings=warnings)
        return run.journal


def open_search(
    out: Path,
    *,
    config: SearchConfig,
    workers: Workers,
    journal: Journal | None,
    parents: Mapping[str, Parent],
    engine: EngineId = BUILTIN_ENGINE,
    person: Person | None = None,
) -> Search:
    """Return a search in the folder `out`, ready to continue its `journal` (None: a new one, which names the engine).

    Raises RunMismatch when the models' numbers of blocks differ from the journal's.
    """
    blocks = workers.blocks
    space = config.space_for(blocks)
    population = config.population(dim=space.dim)
    parts = SampleParts(
        sizes=workers.sizes,
        seed=config.seed,
        batch=config.batch,
        validation=config.validation,
    )
    if journal is None:
        write_file(out / CONFIG_FILE, config.to_yaml())
        journal = Journal.create(out / JOURNAL_FILE, config=config.as_mapping(), blocks=blocks, engine=engine)
    elif journal.blocks != blocks:
        raise RunMismatch(
            f"{out}: the models' numbers of blocks have changed since the run began ({dict(journal.blocks)} -> "
            f"{dict(blocks)}).\n    Start a new run in another folder."
        )
    elif _recorded(journal).budget != config.budget:
        write_file(out / CONFIG_FILE, config.to_yaml())
        journal.raise_budget(config.budget.model_dump(mode="json"))
    for source in [name for name in parents if name not in journal.parents]:
        journal.append_parent(parents[source])
    races = _races(config, workers=workers, parts=parts, objective=config.goal(parents))
    choosing = None
    if person is not None and config.objective.human is not None:
        (choice,) = config.task_choices()
        choosing = Choosing(
            workers=workers,
            objective=config.goal(parents),
            samples=get_task(choice.name).read(Split.SEARCH, limit=choice.limit, data=choice.data).samples,
            file=out / CHOICES_FILE,
            person=person,
            decode=space.decode,
        )
    scoring = CandidateScoring(workers=workers, parts=parts, races=races, choosing=choosing)
    return Search(config=config, space=space, population=population, scoring=scoring, journal=journal)


def _races(config: SearchConfig, *, workers: Workers, parts: SampleParts, objective: Objective) -> Races | None:
    if config.racing is None:
        return None
    return Races(rules=config.racing, workers=workers, parts=parts, objective=objective)


@contextmanager
def _tracked(observer: Observer | None, *, config: SearchConfig, out: Path) -> Iterator[Observer | None]:
    """Give an observer for the trackers that the config names, which passes everything to the given one too."""
    with ExitStack() as stack:
        if config.log.packages:
            # Their packages take seconds to import.
            from evovlm.runs.searching.trackers import TrackingObserver, open_trackers

            trackers = open_trackers(config.log, folder=out, config=config.as_mapping(), stack=stack)
            observer = TrackingObserver(trackers, observer=observer)
        yield observer


def _check_same(out: Path, journal: Journal, config: SearchConfig) -> None:
    """Raise RunMismatch unless the run in `out` has the same config, or one that differs in a smaller budget."""
    recorded = _recorded(journal)
    raised = ("budget",) if config.budget.is_raised_from(recorded.budget) else ()
    check_config(out, recorded=recorded.as_mapping(), given=config.as_mapping(), raised=raised)
    if journal.mean is None or recorded.budget != config.budget:
        engine_of(config, recorded=journal.engine)


def engine_notes(config: SearchConfig | HybridConfig, *, out: Path) -> Sequence[str]:
    """Return which engine answers in each stage of a resolved search in `out`, and why; nothing without a choice.

    Raises as `engine_of` does.
    """
    chosen: dict[str, EngineChoice] = {}
    for name, stage in config.stages.items():
        journal = out / name / JOURNAL_FILE
        chosen[name] = engine_of(stage, recorded=read_journal(journal).engine if journal.exists() else None)
    if not any(each.had_choice for each in chosen.values()):
        return ()
    return [f"stage {name}: {each.note}" if name else each.note for name, each in chosen.items()]


def _as_recorded(config: SearchConfig, journal: Journal) -> SearchConfig:
    """Return the config with the engine of the run."""
    return config.with_engine(journal.engine.name, tensor_parallel=journal.engine.tensor_parallel)


def _recorded(journal: Journal) -> SearchConfig:
    # Keys that the run's version did not know have their defaults.
    return config_from_mapping(journal.config)


def open_evaluator(config: SearchConfig) -> Evaluator:
    """Open the models and tasks of a resolved config in this process, without the scores of parents."""
    return opening_of(config, parents={}).open(WorkerSettings(device=config.device)).evaluator


def _written_result(run: Run, *, peak: Mapping[str, int] | None) -> RunResult:
    """Write best.yaml, mean.yaml and result.json of a finished search; without a new `peak`, the recorded one stays."""
    mean, best, chosen = run.journal.mean, run.best_entry, run.winner_entry
    if mean is None:
        raise RunError(f"{run.folder}: the search is not finished.")
    if best is None or chosen is None:
        raise RunError("no candidate could be evaluated.")
    for name, entry in ((BEST_FILE, best), (MEAN_FILE, mean)):
        recipe = run.space.decode(entry.genome)
        write_file(run.folder / name, recipe_to_yaml(recipe, folder=run.folder))
    if chosen.evaluation is None:
        reason = chosen.failure.reason if chosen.failure else ""
        raise RunError(
            f"{run.folder}: the config asks for the distribution's mean as the winner, but it could not be evaluated "
            f"({reason}).\n    The best candidate is in {run.folder / BEST_FILE}."
        )
    result = RunResult(
        folder=run.folder,
        winner=run.winner_kind,
        recipe=run.space.decode(chosen.genome),
        fitness=chosen.evaluation.fitness,
        evaluation=chosen.evaluation,
        candidates=len(run.journal.candidates),
        failures=sum(entry.failure is not None for entry in run.journal.candidates),
        tokens=run.journal.tokens,
        stopped_by=run.stopped_by,
        front=run.front(),
        rescored=run.rescored,
        peak_memory=run.peak_memory if peak is None else peak,
    )
    write_file(run.folder / RESULT_FILE, json.dumps(result.as_json(), ensure_ascii=False, indent=1) + "\n")
    return result


def run_search(
    config: SearchConfig | HybridConfig,
    *,
    out: Path,
    relative_to: Path | None = None,
    resume: bool = False,
    observe: Callable[[str], Observer | None] = lambda _: None,
    person: Person | None = None,
    allow_code: bool = False,
) -> RunResult:
    """Run the config's search, or a hybrid's stages one after the other, or continue where they stopped.

    `observe` gives the observer of a stage by its name, which is empty for a single search. Raises what `evolve`
    raises; problems of a later stage are found before the first begins.
    """
    if "" in config.stages:
        search = config.stage("")
        return evolve(
            search,
            out=out,
            relative_to=relative_to,
            resume=resume,
            observer=observe(""),
            person=person,
            allow_code=allow_code,
        )
    config = config.resolved(relative_to=relative_to)
    names = list(config.stages)
    with explained(out):
        began = (out / CONFIG_FILE).exists() and (out / names[0]).exists()
    if not began:
        check_folder(out, resume=resume)
    elif not resume:
        raise OutputExists(f"{out} already holds a run.\n    Add --resume to continue it, or name another folder.")
    else:
        _check_same_stages(out, config)
    with locked(out):
        if not _has_begun(out, names[-1]):
            tasks = (task.name for stage in config.stages.values() for task in stage.tasks)
            require_allowed(code_of_tasks(tasks), allow_code=allow_code)
            preflight_search(config).raise_problems()
        write_file(out / CONFIG_FILE, config.to_yaml())
        results: dict[str, RunResult] = {}
        winner: Recipe | None = None
        for name in names:
            stage, folder = config.stage(name, after=winner), inner_folder(out, name)
            results[name] = evolve(
                stage, out=folder, resume=True, observer=observe(name), person=person, allow_code=allow_code
            )
            winner = results[name].recipe
        return _written_result_of_stages(out, results)


def _check_same_stages(out: Path, config: SearchConfig | HybridConfig) -> None:
    """Raise RunMismatch unless the run in `out` has the same config, or one that differs in smaller budgets."""
    recorded, names = load_search(out / CONFIG_FILE), list(config.stages)
    raised = [
        f"stages.{name}.budget"
        for place, name in enumerate(names)
        if name in recorded.stages
        and config.stages[name].budget.is_raised_from(recorded.stages[name].budget)
        # Another winner of this stage would change the host of the next one.
        and not any(_has_begun(out, later) for later in names[place + 1 :])
    ]
    check_config(out, recorded=recorded.as_mapping(), given=config.as_mapping(), raised=raised, rule=_RULE)


def _has_begun(out: Path, stage: str) -> bool:
    return (out / stage / JOURNAL_FILE).exists()


def _written_result_of_stages(out: Path, results: Mapping[str, RunResult]) -> RunResult:
    """Write and return the last stage's result, with the cost of all stages."""
    found = list(results.values())
    result = replace(
        found[-1],
        folder=out,
        candidates=sum(each.candidates for each in found),
        failures=sum(each.failures for each in found),
        tokens=sum(each.tokens for each in found),
    )
    write_file(result.recipe_file, recipe_to_yaml(result.recipe, folder=out))
    stages = {name: each.as_json() for name, each in results.items()}
    text = json.dumps({**result.as_json(), "stages": stages}, ensure_ascii=False, indent=1)
    write_file(out / RESULT_FILE, text + "\n")
    return result
