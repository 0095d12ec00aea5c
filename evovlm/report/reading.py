"""Reads a run's folder for the page; nothing is fetched, and nothing in the folder is changed."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import EvovlmError, ModelNotFound
from evovlm.evaluation.answers import TaskChoice
from evovlm.merging.checkpoint.licences import UNKNOWN, Licence, licence_of, most_restrictive
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.source_values import value_at
from evovlm.report.answer_tables import report_of
from evovlm.report.content import Cost, Model, Numbers, RunContent, Stage, State, TaskReport
from evovlm.report.course import read_course
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.layout import CONFIG_FILE, is_locked
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import contenders_of, report_tasks, scored_of
from evovlm.runs.scores.standings import Answered

PARENTS = "parents"
"""The phase in which parents answered alone, for constraints that refer to their scores."""


def read_run(folder: Path) -> RunContent:
    """Return what the page shows of a run, finished or not.

    Raises RunMismatch for a folder without a journal or without a candidate yet, and for answers that were changed.
    """
    run = Run.open(folder)
    run.check_begun()
    models = {ref.text: _Model(part=part, folder=_folder(ref)) for part, ref in run.models.items()}
    licences = {text: each.licence for text, each in models.items()}
    binding = most_restrictive(licences)
    reports, unscored = _reports(run)
    searches = run.searches.items()
    return RunContent(
        folder=str(folder),
        title=folder.resolve().name,
        seed=run.config.seed,
        state=_state(run),
        seconds=sum(search.seconds for _, search in searches),
        updated=_updated(run),
        tasks=_tasks(run),
        models=tuple(
            Model(part=each.part, text=text, licence=str(licences[text]), at_hand=each.at_hand)
            for text, each in models.items()
        ),
        licence=str(binding.licence) if binding.licence else None,
        licence_reasons=binding.reasons,
        # Nothing is fetched for a report.
        warnings=run.warnings if all(each.at_hand for each in models.values()) else (),
        failed=sum(each.failure is not None for _, search in searches for each in search.journal.candidates),
        commands=_commands(run),
        stages=tuple(_stage(name, search) for name, search in searches),
        reports=reports,
        unscored=unscored,
        resume_command=shlex.join(["evovlm", "evolve", str(folder / CONFIG_FILE), "--out", str(folder), "--resume"]),
        score_command=shlex.join(["evovlm", "report", str(folder), "--score"]),
    )


def _tasks(run: Run) -> tuple[str, ...]:
    """Return the names of the search's tasks; of task files that were never scored, the files' names."""
    objective = run.objective
    return tuple(objective.weights) if objective else tuple(Path(task.name).stem for task in run.config.tasks)


def _state(run: Run) -> State:
    if run.finished:
        return "finished"
    try:
        return "running" if is_locked(run.folder) else "stopped"
    except OSError:
        return "stopped"


def _updated(run: Run) -> str:
    """Return the local time of the last line of the journal."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(run.journal.path.stat().st_mtime))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """A model of the run: its part in a recipe, and its folder if it is on this machine."""

    part: str
    folder: Path | None

    @property
    def at_hand(self) -> bool:
        """Whether its weights are on this machine."""
        return self.folder is not None and any(self.folder.glob("*.safetensors"))

    @property
    def licence(self) -> Licence:
        """The licence that its card names."""
        return licence_of(self.folder) if self.folder else Licence(id=UNKNOWN)


def _stage(name: str, run: Run) -> Stage:
    entry = run.winner_entry
    return Stage(
        name=name,
        folder=str(run.folder),
        finished=run.journal.mean is not None,
        seconds=run.seconds,
        generations=len(run.generations),
        budget=run.config.budget.candidates,
        winner="rescored" if entry is not None and entry.kind == "rescored" else run.winner_kind if entry else None,
        winner_fitness=run.fitness,
        ties=_ties(run),
        recipe_id=run.winner.recipe_id if run.winner else None,
        settings=_settings(run.config),
        course=read_course(run),
        numbers=numbers_of(run),
        chosen={name: "default" if option is None else str(option) for name, option in run.description.chosen.items()},
        path=run.description.path,
        cost=_cost(run),
    )


def _ties(run: Run) -> int:
    """Return how many other recipes have the fitness of the best candidate."""
    best = next(iter(run.ranked), None)
    if best is None or best.evaluation is None:
        return 0
    equal = {
        each.recipe_id for each in run.ranked if each.evaluation and each.evaluation.fitness == best.evaluation.fitness
    }
    return len(equal) - 1


def numbers_of(run: Run) -> tuple[Numbers, ...]:
    """Return the winner's numbers by parameter; empty for a path, whose first stage has its own figures."""
    found, baseline = run.description, run.config.baseline()
    if baseline is None:
        return ()
    equal = next(iter(baseline.parameters.values()))
    parameters = dict.fromkeys(each.parameter for each in found.numbers)
    ranges = {parameter: found.ranges.get(parameter, (0.0, 1.0)) for parameter in parameters}
    return tuple(
        Numbers(
            parameter=parameter,
            units=found.units,
            lines=tuple(each for each in found.numbers if each.parameter == parameter),
            equal=value_at(getattr(equal, parameter), 0),
            low=low,
            high=high,
        )
        for parameter, (low, high) in ranges.items()
    )


def _settings(config: SearchConfig) -> Mapping[str, str]:
    """Return the settings of a search in a few words."""
    optimizer = config.optimizer
    found = {
        "method": config.method,
        "space": config.space.kind,
        "optimizer": f"{optimizer.kind}, sigma {optimizer.sigma:.3g}",
        "seed": str(config.seed),
        "device": config.device,
    }
    found |= {"batch": str(config.batch)} if config.batch is not None else {}
    return found | ({"validation": str(config.validation)} if config.validation is not None else {})


def _cost(run: Run) -> Cost:
    seconds: dict[str, float] = {}
    # The cost of a part is in its candidate's line too.
    evaluated = [each.evaluation for each in run.journal.entries if each.kind != "part" and each.evaluation]
    for evaluation in evaluated:
        for phase, spent in evaluation.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    parents = run.journal.parents.values()
    if parents:
        seconds[PARENTS] = sum(sum(parent.seconds.values()) for parent in parents)
    template = run.template
    return Cost(
        seconds=seconds,
        tokens=run.journal.tokens,
        parents_tokens=sum(parent.tokens for parent in parents),
        merges=sum("merge" in evaluation.seconds for evaluation in evaluated),
        merged_bytes=None if template.keeps_every_source else _size_bytes(run.models["host"]),
        peak_memory=run.peak_memory,
    )


def _size_bytes(ref: ModelRef) -> int | None:
    folder = _folder(ref)
    return (sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None) if folder else None


def _folder(ref: ModelRef) -> Path | None:
    try:
        return ref.folder_at_hand()
    except ModelNotFound:
        return None


def _commands(run: Run) -> tuple[str, ...]:
    again = ["evovlm", "evolve", str(run.folder / CONFIG_FILE), "--out", f"{run.folder}-again"]
    merge = ["evovlm", "merge", str(run.winner_file), "--out", str(run.folder / "model")]
    return shlex.join(again), shlex.join(merge)


def _reports(run: Run) -> tuple[tuple[TaskReport, ...], tuple[str, ...]]:
    """Return the report of each task with answers, and the names of models that have not answered every task."""
    choices = report_tasks(run.config)
    by_task: dict[str, list[Answered]] = {}
    unscored = []
    for contender in contenders_of(run):
        scored = scored_of(contender, run.folder)
        for each in scored:
            by_task.setdefault(each.name, []).append(Answered(contender=contender, scored=each))
        if len(scored) < len(choices):
            unscored.append(contender.name)
    named = _choices_by_name(choices)
    winner = run.winner_entry.evaluation if run.winner_entry is not None else None
    searched = {} if winner is None else {name: score.score for name, score in winner.scores.items()}
    reports = tuple(
        report_of(each, named.get(name, TaskChoice(name=name)), search_score=searched.get(name))
        for name, each in by_task.items()
    )
    return reports, tuple(unscored)


def _choices_by_name(choices: Sequence[TaskChoice]) -> Mapping[str, TaskChoice]:
    """Return the tasks by their names in results; for a user's own task that is the name in its file."""
    from evovlm.tasks.catalogue import get_task
    from evovlm.tasks.harness_name import is_harness_name

    named = {}
    for choice in choices:
        try:
            named[choice.name if is_harness_name(choice.name) else get_task(choice.name).name] = choice
        except EvovlmError:
            # The task's file is gone, but its answers are still there.
            continue
    return named
