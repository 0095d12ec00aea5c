"""A run folder read for the page; nothing is fetched, and nothing in the folder is changed."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.errors import EvovlmError, ModelNotFound, RunMismatch
from evovlm.evaluation.answers import TaskChoice
from evovlm.merging.checkpoint.licences import UNKNOWN, Licence, licence_of, most_restrictive
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.recipes.kinds import PS, Recipe, models_of
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.path_template import PathTemplate
from evovlm.recipes.recipe import MergeTemplate
from evovlm.report.contenders import Contender, contenders_of, report_tasks, scored_of
from evovlm.report.content import Cost, Model, RunContent, Stage, TaskReport
from evovlm.report.course import read_course
from evovlm.report.standings import Answered, report_of
from evovlm.report.winner import Winner, chosen_of, equal_weights, numbers_of, path_of, winner_of
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.hybrid import PATH
from evovlm.runs.config.parameters import EvolveConfig, config_from_mapping
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.folder.journal import Journal, read_journal
from evovlm.runs.folder.layout import CONFIG_FILE, JOURNAL_FILE, RESULT_FILE, winner_file
from evovlm.runs.folder.peak_memory import recorded_peak_memory

PARENTS = "parents"
"""The phase in which parents answered alone, for constraints on what they score."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenStage:
    """A search's journal with its config, and who won so far."""

    name: str
    folder: Path
    journal: Journal
    config: EvolveConfig | PathConfig
    winner: Winner | None

    @property
    def template(self) -> MergeTemplate | PathTemplate:
        """What the search kept fixed."""
        return self.config.template(relative_to=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenRun:
    """A run's stages that have candidates, and who is to be scored on the report split."""

    folder: Path
    stages: tuple[OpenStage, ...]

    @property
    def config(self) -> EvolveConfig | PathConfig:
        """The config of the first search; tasks and report are those of all."""
        return self.stages[0].config

    @property
    def contenders(self) -> list[Contender]:
        """The winner, every parent and the baselines."""
        last, template = self.stages[-1], self.stages[0].template
        merged = template if isinstance(template, MergeTemplate) else None
        return contenders_of(last.winner.recipe if last.winner else None, merged, self.config)

    @property
    def finished(self) -> bool:
        """Whether every search of the run is at its end."""
        whole = not (self.folder / PS).is_dir() or self.stages[-1].name == PATH
        return whole and all(stage.journal.mean is not None for stage in self.stages)


def open_run(folder: Path) -> OpenRun:
    """Open a run, finished or not. Raises RunMismatch for a folder without a journal, or without a candidate yet."""
    places = {"": folder, PS: folder / PS, PATH: folder / PATH}
    journals = {name: place / JOURNAL_FILE for name, place in places.items() if (place / JOURNAL_FILE).is_file()}
    if not journals:
        raise RunMismatch(f"{folder} holds no {JOURNAL_FILE}. Name the folder that `evovlm evolve --out` wrote.")
    opened = {name: read_journal(path) for name, path in journals.items()}
    stages = tuple(_opened(name, places[name], journal) for name, journal in opened.items() if journal.candidates)
    if not stages:
        raise RunMismatch(f"{folder}: no candidate has been evaluated yet. Wait a little, or resume the run.")
    return OpenRun(folder=folder, stages=stages)


def read_run(folder: Path) -> RunContent:
    """Return what the page shows of a run. Raises RunMismatch as `open_run` does, and for answers that were changed."""
    run = open_run(folder)
    models = dict(_models(run))
    licences = {text: licence for text, (licence, _) in models.items()}
    binding = most_restrictive(licences)
    parts = {ref.text: part for part, ref in models_of(_stand_in(run)).items()}
    reports, unscored = _reports(run)
    return RunContent(
        folder=str(folder),
        title=folder.resolve().name,
        seed=run.config.seed,
        finished=run.finished,
        tasks=tuple(dict.fromkeys(Path(task.name).stem for task in run.config.tasks)),
        models=tuple(
            Model(part=parts[text], text=text, licence=str(licence), at_hand=at_hand)
            for text, (licence, at_hand) in models.items()
        ),
        licence=str(binding.licence) if binding.licence else None,
        licence_reasons=binding.reasons,
        warnings=_warnings(run, all(at_hand for _, at_hand in models.values())),
        failed=sum(isinstance(entry.outcome, Failure) for stage in run.stages for entry in stage.journal.candidates),
        commands=_commands(run),
        stages=tuple(_stage(stage) for stage in run.stages),
        reports=reports,
        unscored=unscored,
        score_command=shlex.join(["evovlm", "report", str(folder), "--score"]),
    )


def _opened(name: str, folder: Path, journal: Journal) -> OpenStage:
    config = config_from_mapping(journal.config)
    return OpenStage(name=name, folder=folder, journal=journal, config=config, winner=winner_of(journal, config))


def _stage(stage: OpenStage) -> Stage:
    journal, config, winner = stage.journal, stage.config, stage.winner
    outcome = winner.entry.outcome if winner else None
    return Stage(
        name=stage.name,
        folder=str(stage.folder),
        finished=journal.mean is not None,
        generations=max(entry.generation for entry in journal.candidates) + 1,
        budget=config.budget.candidates,
        winner=_kind(winner) if winner else None,
        winner_fitness=outcome.fitness if isinstance(outcome, Evaluation) else None,
        recipe_id=winner.recipe.recipe_id if winner else None,
        said=_said(config),
        course=read_course(journal, config),
        numbers=numbers_of(journal, config, winner.entry) if winner else (),
        chosen=chosen_of(journal, config, winner.entry) if winner else {},
        path=path_of(winner.recipe) if winner else None,
        cost=_cost(stage),
    )


def _kind(winner: Winner) -> str:
    return "best" if winner.entry.kind == "candidate" else winner.entry.kind


def _said(config: EvolveConfig | PathConfig) -> Mapping[str, str]:
    """Return what a search was asked, in few words."""
    optimizer = config.optimizer
    said = {
        "method": " | ".join(each.name for each in config.space.methods(config.merge))
        if isinstance(config, EvolveConfig)
        else config.merge.kind,
        "space": config.space.kind,
        "optimizer": f"{optimizer.kind}, sigma {optimizer.sigma:.3g}",
        "seed": str(config.seed),
        "device": config.device,
    }
    said |= {"batch": str(config.batch)} if config.batch is not None else {}
    return said | ({"validation": str(config.validation)} if config.validation is not None else {})


def _cost(stage: OpenStage) -> Cost:
    seconds: dict[str, float] = {}
    # What a part cost is in its candidate's line, too.
    whole = [entry.outcome for entry in stage.journal.entries if entry.kind != "part"]
    evaluated = [outcome for outcome in whole if isinstance(outcome, Evaluation)]
    for outcome in evaluated:
        for phase, spent in outcome.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    parents = stage.journal.parents.values()
    if parents:
        seconds[PARENTS] = sum(sum(parent.seconds.values()) for parent in parents)
    template = stage.template
    return Cost(
        seconds=seconds,
        tokens=stage.journal.tokens,
        parents_tokens=sum(parent.tokens for parent in parents),
        merges=sum("merge" in outcome.seconds for outcome in evaluated),
        merged_bytes=_size_bytes(template.host) if isinstance(template, MergeTemplate) else None,
        peak_memory=recorded_peak_memory(stage.folder / RESULT_FILE),
    )


def _size_bytes(ref: ModelRef) -> int | None:
    folder = _folder(ref)
    return (sum(file.stat().st_size for file in folder.glob("*.safetensors")) or None) if folder else None


def _folder(ref: ModelRef) -> Path | None:
    try:
        return ref.folder_at_hand()
    except ModelNotFound:
        return None


def _stand_in(run: OpenRun) -> Recipe:
    """Return a recipe of all of the run's models."""
    template = run.stages[-1].template
    return equal_weights(template) if isinstance(template, MergeTemplate) else template.recipe(template.first_blocks())


def _models(run: OpenRun) -> Iterator[tuple[str, tuple[Licence, bool]]]:
    """Return each model's licence, and whether all of it is at hand, by its text."""
    for ref in models_of(_stand_in(run)).values():
        folder = _folder(ref)
        whole = folder is not None and any(folder.glob("*.safetensors"))
        yield ref.text, (licence_of(folder) if folder else Licence(id=UNKNOWN), whole)


def _warnings(run: OpenRun, at_hand: bool) -> tuple[str, ...]:
    """Return what a look at the search before it began says: rope, vocabularies, samples seen that are reported on.

    Only where all models are at hand: nothing is fetched for a report.
    """
    if not at_hand:
        return ()
    found: dict[str, None] = {}
    for stage in run.stages:
        # The comparison of pictures by a model takes minutes; the search has told what it found.
        look = preflight_search(stage.config.model_copy(update={"guard": None}), stage.template)
        found |= dict.fromkeys((*look.warnings, *map(str, look.problems)))
    return tuple(found)


def _commands(run: OpenRun) -> tuple[str, ...]:
    folder, last = run.folder, run.stages[-1]
    again = ["evovlm", "evolve", str(folder / CONFIG_FILE), "--out", f"{folder}-again"]
    # Where candidates were scored again, the mean may have won.
    winner = "mean" if last.winner is not None and last.winner.entry.kind == "mean" else last.config.winner
    merge = ["evovlm", "merge", str(folder / winner_file(winner)), "--out", str(folder / "model")]
    return shlex.join(again), shlex.join(merge)


def _reports(run: OpenRun) -> tuple[tuple[TaskReport, ...], tuple[str, ...]]:
    """Return the report of each task that anybody has answered, and who has not answered all of them."""
    choices = report_tasks(run.config)
    by_task: dict[str, list[Answered]] = {}
    unscored = []
    for contender in run.contenders:
        scored = scored_of(contender, run.folder)
        for each in scored:
            by_task.setdefault(each.name, []).append(Answered(contender=contender, scored=each))
        if len(scored) < len(choices):
            unscored.append(contender.name)
    named = _choices_by_name(choices)
    reports = tuple(report_of(each, named.get(name, TaskChoice(name=name))) for name, each in by_task.items())
    return reports, tuple(unscored)


def _choices_by_name(choices: Sequence[TaskChoice]) -> Mapping[str, TaskChoice]:
    """Return the tasks by the names that results have: one of one's own is known by the name in its file."""
    from evovlm.tasks.catalogue import get_task
    from evovlm.tasks.harness_name import is_harness_name

    named = {}
    for choice in choices:
        try:
            named[choice.name if is_harness_name(choice.name) else get_task(choice.name).name] = choice
        except EvovlmError:
            # A task file that is gone: its answers are there all the same.
            continue
    return named
