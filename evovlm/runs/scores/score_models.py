"""Scores models on tasks; every answer can be kept in a folder, so that an interrupted scoring can be continued.

summary.json                        settings, versions, and the scores of finished tasks
1-math-a.1-word_problems_ja.jsonl   the predictions of one model on one task, in the task's order
1-math-a.2-emoji_ja.batches.jsonl   one line per batch of answers, of an unfinished task

What is wrong with models, tasks or folders is reported before torch is imported, which takes seconds.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Unpack

from evovlm.devices import device_name, is_cpu, release_memory
from evovlm.errors import ConfigError, OutputExists, TaskError
from evovlm.evaluation.answering import answered, open_tasks
from evovlm.evaluation.answers import OpenTask, PreparedTask, ScoredTask, TaskChoice, figures
from evovlm.evaluation.batches import AnswerProgress, Batches
from evovlm.evaluation.comparison import Comparison, compare
from evovlm.evaluation.engines.table import AUTO, BUILTIN, BUILTIN_ENGINE, EngineId, choose_engine
from evovlm.evaluation.engines.work import Work
from evovlm.evaluation.judging import JudgeChoice
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.hub import HubModel, check_exists
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_ref import ModelRef, all_parts, parse_model_ref
from evovlm.runs.scores.saved import RECIPE_IDENTITY, SavedScores, saving
from evovlm.runs.workers import check_gpus
from evovlm.tasks.metrics.judges import HERON, heron_relative
from evovlm.tasks.sample import Split
from evovlm.tasks.task import TaskSettings

if TYPE_CHECKING:
    from evovlm.evaluation.engines.engine import Engine
    from evovlm.models.loading import LoadedModel


class ScoreObserver(Protocol):
    """What follows a scoring, such as a progress display."""

    def loading(self, *, model: str) -> None:
        """A model is being loaded."""
        ...

    def asking(self, *, model: str, task: str) -> None:
        """A model is being asked a task."""
        ...

    def answered(self, progress: AnswerProgress) -> None:
        """More answers have come; called from any thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """What to score: models by their names on the command line, tasks, the split, the device, the engine.

    With `tensor_parallel` above 1, each model is divided over that number of GPUs. One engine answers for all models;
    `auto` is another one than `builtin` only if it can answer for each of them. With `allow_code`, metric scripts and
    harness task files are run. `called` is what the observer calls the models.
    """

    models: tuple[str, ...]
    tasks: tuple[TaskChoice, ...]
    split: Split
    device: str = "auto"
    engine: str = AUTO
    tensor_parallel: int = 1
    allow_code: bool = False
    called: tuple[str, ...] = ()

    def shown(self, place: int) -> str:
        """Return what the observer calls a model; of several, with its number: `zoo:ja, 1 of 4`."""
        if self.called:
            return self.called[place]
        several = f", {place + 1} of {len(self.models)}" if len(self.models) > 1 else ""
        return f"{self.models[place]}{several}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredModel:
    """One model's answers to every task."""

    model: str
    tasks: tuple[ScoredTask, ...]


class Pair(NamedTuple):
    """Two models compared on a task."""

    task: str
    first: str
    second: str
    comparison: Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All models' answers, and every pair of models compared on each task."""

    models: tuple[ScoredModel, ...]
    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        """A line for each model and task; scores x 100, as the command line shows them."""
        return "\n".join(
            f"{each.model}, {task.name}: {100 * task.score.score:.1f} ({task.measured}; {task.score.n} samples)"
            for each in self.models
            for task in each.tasks
        )

    def as_json(self) -> Mapping[str, object]:
        """Return the figures as plain values: for one model by task, for several by model, with `comparisons`."""
        by_model = {each.model: {task.name: figures_of(task) for task in each.tasks} for each in self.models}
        if len(self.models) == 1:
            return by_model[self.models[0].model]
        comparisons = [
            {"task": pair.task, "first": pair.first, "second": pair.second, **asdict(pair.comparison)}
            for pair in self.pairs
        ]
        return {"models": by_model, "comparisons": comparisons}


def score_models(
    scoring: ScoreRequest, *, save: Path | None = None, resume: bool = False, observer: ScoreObserver | None = None
) -> Scores:
    """Load one model after the other and score it on every task; with `save`, keep every answer in that folder.

    With `resume`, answers that the folder holds are not asked for again. Raises OutputExists if the folder exists and
    `resume` is not set, RunMismatch if it holds other models, tasks or samples, and what models and tasks raise: before
    the first model is loaded if that can be known.
    """
    if len(set(scoring.models)) < len(scoring.models):
        raise ConfigError("a model is named twice. Name each once.")
    if save is not None and os.path.lexists(save) and not resume:
        raise OutputExists(
            f"{save} exists already and is not overwritten.\n    Add --resume to continue, or choose another name."
        )
    device_name(scoring.device)
    opened = open_tasks(scoring.tasks, scoring.split, allow_code=scoring.allow_code)
    models = [find_model(text) for text in scoring.models]
    engine = _engine_for(scoring, models)
    with _saved(scoring, opened, models, engine=engine, save=save) as saved:
        scored = tuple(
            ScoredModel(
                model=text,
                tasks=_score_model(place, opened, scoring=scoring, engine=engine, saved=saved, observer=observer),
            )
            for place, text in enumerate(scoring.models)
        )
        scores = Scores(models=scored, pairs=_pairs(scored))
        if saved is not None:
            saved.finish(scores.as_json())
    return scores


def keep_scored(scoring: ScoreRequest, opened: Sequence[OpenTask], scored: Sequence[ScoredTask], *, save: Path) -> None:
    """Keep one model's answers to the opened tasks in a folder, as `score_models` does, which then need not ask again.

    Answers that the folder holds are replaced. Raises RunMismatch for a folder of something else.
    """
    models = [find_model(text) for text in scoring.models]
    settings = _settings(scoring, opened, models, engine=BUILTIN_ENGINE)
    with saving(save, settings=settings, anew=True) as saved:
        for number, task in enumerate(scored):
            saved.keep(0, number, task)
        whole = Scores(models=(ScoredModel(model=scoring.models[0], tasks=tuple(scored)),), pairs=())
        saved.finish(whole.as_json())


def ask_models(
    models: Sequence[str],
    *,
    tasks: Sequence[str],
    split: Split,
    limit: int | None = None,
    judge: JudgeChoice | None = None,
    data: Mapping[str, Path] | None = None,
    device: str = "auto",
    engine: str = AUTO,
    tensor_parallel: int = 1,
    save: Path | None = None,
    resume: bool = False,
    allow_code: bool = False,
    observer: ScoreObserver | None = None,
    **settings: Unpack[TaskSettings],
) -> Scores:
    """Score models on tasks, with the same settings for all tasks; `data` is by task. Raises as `score_models` does."""
    places = data or {}
    if strays := sorted(set(places) - set(tasks)):
        raise TaskError(f"data for {', '.join(strays)}: they are not among the scored tasks ({', '.join(tasks)}).")
    choices = tuple(
        TaskChoice(name=name, limit=limit, data=places.get(name), judge=judge, thinking="found", **settings)
        for name in tasks
    )
    request = ScoreRequest(
        models=tuple(models),
        tasks=choices,
        split=split,
        device=device,
        engine=engine,
        tensor_parallel=tensor_parallel,
        allow_code=allow_code,
    )
    return score_models(request, save=save, resume=resume, observer=observer)


def figures_of(scored: ScoredTask) -> Mapping[str, object]:
    """Return a task's figures as plain values."""
    metric = scored.metric
    tags = {tag: figures(found, metric=metric) for tag in scored.tags if (found := scored.tagged(tag)) is not None}
    relative = heron_relative(_grades(scored)) if metric == HERON else None
    return {
        **figures(scored.score, metric=metric),
        **({"relative": relative} if relative is not None else {}),
        "measured": scored.measured,
        "gate": scored.gate,
        "reasons": {reason: len(ids) for reason, ids in scored.unscored.items()},
        **({"absent": dict(scored.absent)} if scored.absent else {}),
        "tags": tags,
        "tokens": scored.tokens,
        "seconds": dict(scored.seconds),
    }


def _grades(scored: ScoredTask) -> Mapping[str, list[str]]:
    """Return what a judge's verdicts were, by category; an answer without one does not count."""
    return {
        tag: [each.extracted for each in scored.answers if tag in each.sample.tags and each.extracted is not None]
        for tag in scored.tags
    }


def _score_model(
    place: int,
    opened: Sequence[OpenTask],
    *,
    scoring: ScoreRequest,
    engine: EngineId,
    saved: SavedScores | None,
    observer: ScoreObserver | None,
) -> tuple[ScoredTask, ...]:
    """Score one model; it is in memory only while this runs."""
    scored = [saved.finished(place, number) if saved is not None else None for number in range(len(opened))]
    waiting = [number for number, kept in enumerate(scored) if kept is None]
    if not waiting:
        return tuple(kept for kept in scored if kept is not None)
    if observer is not None:
        observer.loading(model=scoring.shown(place))
    _free_memory()
    holding, prepared = _opened(scoring, place, [opened[number] for number in waiting], engine=engine)
    for number, task in zip(waiting, prepared, strict=True):
        if observer is not None:
            observer.asking(model=scoring.shown(place), task=task.name)
        log = saved.log(place, number) if saved is not None else None
        on_progress = observer.answered if observer is not None else None
        batches = Batches(device=holding.loaded.device, log=log, on_progress=on_progress)
        scored[number] = kept = answered(task, holding, batches=batches)
        if saved is not None:
            saved.keep(place, number, task.explained(kept, holding.loaded))
    holding.close()
    return tuple(kept for kept in scored if kept is not None)


def _opened(
    scoring: ScoreRequest, place: int, tasks: Sequence[OpenTask], *, engine: EngineId
) -> tuple[Engine, Sequence[PreparedTask]]:
    """Return an engine that holds a model, and the tasks as its prompts."""
    # Imported now that the observer says what is going on: this takes seconds.
    from evovlm.evaluation.resident import open_model
    from evovlm.models.pictures.feature_store import FeatureStore

    store = FeatureStore()

    def prepare(loaded: LoadedModel) -> Sequence[PreparedTask]:
        return [task.prepare(loaded, store=store) for task in tasks]

    return open_model(find_model(scoring.models[place]), prepare, device=scoring.device, engine=engine)


def _engine_for(scoring: ScoreRequest, models: Sequence[ModelRef | Recipe]) -> EngineId:
    """Return the engine for all models of a scoring. Raises ConfigError for one that cannot answer for each of them."""
    if scoring.engine == BUILTIN and scoring.tensor_parallel == 1:
        return BUILTIN_ENGINE
    check_gpus(1, device=scoring.device, each=scoring.tensor_parallel)
    works = [work_of(model, scoring.tasks, device=scoring.device) for model in models]
    chosen = {
        choose_engine(scoring.engine, replace(work, tensor_parallel=scoring.tensor_parallel)).engine for work in works
    }
    return chosen.pop() if len(chosen) == 1 else BUILTIN_ENGINE


def work_of(model: ModelRef | Recipe, tasks: Sequence[TaskChoice], *, device: str) -> Work:
    """Return what an engine has to do to score a model on tasks."""
    if isinstance(model, ModelRef):
        return Work(host=model, tasks=tuple(tasks), device=device)
    host = model.host or (model.first_stage.host if model.first_stage is not None else None)
    is_path = model.path is not None
    return Work(host=host or next(iter(model.sources.values())), tasks=tuple(tasks), device=device, is_path=is_path)


def _free_memory() -> None:
    """Release the memory of a model that was loaded before; without torch, none was."""
    if "torch" in sys.modules:
        gc.collect()
        release_memory()


def _pairs(scored: Sequence[ScoredModel]) -> tuple[Pair, ...]:
    return tuple(
        Pair(task=ours.name, first=first.model, second=second.model, comparison=_compared(ours, theirs))
        for first, second in itertools.combinations(scored, 2)
        for ours, theirs in zip(first.tasks, second.tasks, strict=True)
    )


def _compared(first: ScoredTask, second: ScoredTask) -> Comparison:
    ours, theirs = first.score.per_sample, second.score.per_sample
    return compare(ours, theirs, binary=all(value in (0.0, 1.0) for value in (*ours, *theirs)))


def find_model(text: str) -> ModelRef | Recipe:
    """Return what `text` names: a recipe, a folder, a hub id or zoo:NAME; of the hub's models nothing is fetched.

    Raises ConfigError for a recipe that is wrong or does not exist, ModelNotFound for a model that does not exist.
    """
    if Path(text).suffix in (".yaml", ".yml") and not Path(text).is_dir():
        return load_recipe(Path(text), methods=METHODS)
    reference = parse_model_ref(text, relative_to=None)
    reference.check_parts()
    for part in reference.parts:
        found = part.find()
        if isinstance(found, HubModel):
            check_exists(found)
    return reference


def identity_of(text: str) -> str:
    """Return an identity of the weights that `text` names: a recipe's id; for a folder, its files' sizes and times too.

    Raises as `find_model` does.
    """
    return _identity(find_model(text))


def _identity(model: ModelRef | Recipe) -> str:
    if not isinstance(model, ModelRef):
        return f"{RECIPE_IDENTITY}{model.recipe_id}"
    folders = [folder for part in all_parts(model) if (folder := part.local_folder()) is not None]
    if not folders:
        return model.identity
    digest = hashlib.blake2b(digest_size=8)
    for file in (file for folder in folders for file in sorted(folder.iterdir())):
        if file.suffix in (".json", ".safetensors", ".model"):
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return f"{model.identity} {digest.hexdigest()}"


@contextmanager
def _saved(
    scoring: ScoreRequest,
    opened: Sequence[OpenTask],
    models: Sequence[ModelRef | Recipe],
    *,
    engine: EngineId,
    save: Path | None,
) -> Iterator[SavedScores | None]:
    if save is None:
        yield None
        return
    with saving(save, settings=_settings(scoring, opened, models, engine=engine)) as saved:
        yield saved


def _settings(
    scoring: ScoreRequest, opened: Sequence[OpenTask], models: Sequence[ModelRef | Recipe], *, engine: EngineId
) -> Mapping[str, object]:
    """Return what must be the same for answers in a folder to be used again."""
    name = device_name(scoring.device)
    return {
        "split": scoring.split.value,
        **({} if engine == BUILTIN_ENGINE else {"engine": str(engine)}),
        "device": name if is_cpu(name) else name.partition(":")[0],
        "models": [
            {"model": text, "identity": _identity(model)} for text, model in zip(scoring.models, models, strict=True)
        ],
        "tasks": [
            {
                "task": task.name,
                "limit": choice.limit,
                "decoding": None if choice.decoding is None else choice.decoding.like,
                "prompt": choice.prompt,
                "measured": task.measured,
                "fingerprint": task.fingerprint,
            }
            for choice, task in zip(scoring.tasks, opened, strict=True)
        ],
    }
