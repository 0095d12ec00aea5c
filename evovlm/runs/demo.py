"""The demo: both pipelines on the embedded models, each against its sources and two baselines, on the report split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from evovlm.assets import asset_path
from evovlm.errors import ConfigError, OutputExists
from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import PreparedTask, ScoredTask, TaskChoice
from evovlm.evaluation.loadable import check_loads
from evovlm.files import inner_folder
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.model_ref import ModelRef
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.layout import PAGE_FILE
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import (
    EQUAL_WEIGHTS,
    RANDOM,
    WINNER,
    Contender,
    contenders_of,
    keep_answers,
    random_contender,
)
from evovlm.runs.scores.standings import Answered, Standing, standing_of
from evovlm.runs.searching.evolve import evolve, open_evaluator
from evovlm.runs.searching.search import Observer
from evovlm.tasks.task import Split
from evovlm.texts.languages import Phrase

if TYPE_CHECKING:
    from evovlm.evaluation.evaluator import Evaluator

CULTURE = "culture"
ARTISTS = ("openmoji", "noto")
"""Tags of the pictures: two machines' scores can be compared by artist, as one may lack the drawings of the other."""
EVOLVED = "evolved"
"""The folder of the search; that of the random one is named as its winner is in the tables."""
EXAMPLES = 3


class Size(StrEnum):
    """How much the demo searches: enough to evolve, with the paper's settings (full), or only to try it (quick)."""

    QUICK = "quick"
    USUAL = "usual"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One of the demo's two searches: its configs in configs/, and the budget and samples of the quick one."""

    name: str
    usual: str
    full: str
    quick_candidates: int
    quick_limit: int


PIPELINES: Mapping[str, Pipeline] = {
    "evollm": Pipeline(
        name="evollm",
        usual="configs/demo-small-evollm.yaml",
        full="configs/demo-evollm.yaml",
        quick_candidates=30,
        quick_limit=80,
    ),
    "evovlm": Pipeline(
        name="evovlm",
        usual="configs/demo-small-evovlm.yaml",
        full="configs/demo-evovlm.yaml",
        quick_candidates=24,
        quick_limit=120,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredSample:
    """One report sample with every model's answer."""

    question: str
    reference: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """What a pipeline found: `search_fitness` on the search split, `standings` on the report split.

    `absent` counts the samples of the report split that this machine could not have, by reason.
    """

    pipeline: Pipeline
    task: str
    n_samples: int
    candidates: int
    search_fitness: float
    standings: tuple[Standing, ...]
    examples: tuple[AnsweredSample, ...]
    absent: Mapping[str, int]
    run_folder: Path
    model_folder: Path

    @property
    def page(self) -> Path:
        """The file of the run's page."""
        return self.run_folder / PAGE_FILE

    @property
    def winner(self) -> Standing:
        """How well the evolved merge did."""
        return next(each for each in self.standings if each.role == "winner")

    def as_json(self) -> Mapping[str, object]:
        """Return the standings as plain values."""
        rows = {each.name: _figures(each) for each in self.standings}
        return {
            "sources": {each.name: rows[each.name] for each in self.standings if each.role == "parent"},
            "uniform": rows[EQUAL_WEIGHTS],
            "random": rows[RANDOM],
            "evolved": rows[WINNER],
        }


def run_pipeline(
    pipeline: Pipeline,
    *,
    out: Path,
    size: Size,
    seed: int,
    observe: Callable[[Phrase], Observer],
    say: Callable[[Phrase], None] = lambda _: None,
) -> PipelineResult:
    """Run one pipeline in the folder `out`, or continue where an interrupted one stopped.

    `observe` gives the observer of each search by its title; `say` takes the name of everything else that takes time.
    Raises RunMismatch when the folder was made with other settings, OutputExists when its model is another.
    """
    config = demo_config(pipeline, size=size, seed=seed)
    evaluator = open_evaluator(config)
    searches = {
        name: evolve(variant, out=inner_folder(out, name), resume=True, observer=observe(title), evaluator=evaluator)
        for name, title, variant in (
            (RANDOM, Phrase("demo_searching_random", {}), _with_optimizer(config, "random")),
            (EVOLVED, Phrase("demo_searching_evolved", {}), config),
        )
    }
    run = Run.open(out / EVOLVED)
    opened = open_task(TaskChoice(name=config.tasks[0].name), Split.REPORT)
    task = opened.prepare(evaluator.loaded)
    answered = [
        Answered(contender=each, scored=_scored(evaluator, task, each, config=config))
        for each in _each_said(_contenders(run, searches[RANDOM].recipe), say)
    ]
    for each in answered:
        keep_answers(each.contender, run, opened=[opened], scored=[each.scored])
    model = out / "model"
    _write_model(searches[EVOLVED].recipe, model)
    return PipelineResult(
        pipeline=pipeline,
        task=config.tasks[0].name,
        n_samples=task.n_samples,
        candidates=searches[EVOLVED].candidates,
        search_fitness=searches[EVOLVED].fitness,
        standings=tuple(map(standing_of, answered)),
        examples=_examples(answered),
        absent=answered[0].scored.absent,
        run_folder=out / EVOLVED,
        model_folder=model,
    )


def _each_said(contenders: Sequence[Contender], say: Callable[[Phrase], None]) -> Iterator[Contender]:
    """Yield the contenders, each after its name and number are said."""
    for number, each in enumerate(contenders, start=1):
        name = each.name if each.role == "parent" else Phrase(f"demo_{each.name}", {})
        say(Phrase("demo_scoring", {"name": name, "number": number, "n": len(contenders)}))
        yield each


def demo_config(pipeline: Pipeline, *, size: Size, seed: int) -> EvolveConfig:
    """Return the pipeline's config with the given seed of the search."""
    name = pipeline.usual if size is Size.USUAL else pipeline.full
    config = load_config(asset_path(name))
    if not isinstance(config, EvolveConfig):
        raise ConfigError(f"{name}: the demo searches parameters, not paths.")
    changes: dict[str, object] = {"seed": seed}
    if size is Size.QUICK:
        changes["budget"] = config.budget.model_copy(update={"candidates": pipeline.quick_candidates})
        changes["tasks"] = [task.model_copy(update={"limit": pipeline.quick_limit}) for task in config.tasks]
    return config.model_copy(update=changes)


def _with_optimizer(config: EvolveConfig, kind: str) -> EvolveConfig:
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"kind": kind})})


def _contenders(run: Run, random: Recipe) -> list[Contender]:
    """Return the sources, the equal-weights merge, the winner of the random search, and the evolved merge last."""
    found = {each.name: each for each in contenders_of(run)}
    winner = found.pop(WINNER)
    return [*({**found, RANDOM: random_contender(random)}).values(), winner]


def _scored(evaluator: Evaluator, task: PreparedTask, contender: Contender, *, config: EvolveConfig) -> ScoredTask:
    # A source is merged too, whole and alone: the same weights without loading another model.
    model = config.source_alone(contender.name) if isinstance(contender.model, ModelRef) else contender.model
    evaluator.resident.merge(model)
    return task.explained(task.answer(evaluator.resident.engine), evaluator.loaded)


def _figures(standing: Standing) -> Mapping[str, object]:
    figures: dict[str, object] = {
        "score": standing.score,
        "interval": list(standing.interval),
        "ungated": standing.ungated,
        "japanese": standing.japanese,
    }
    return {**figures, CULTURE: standing.subsets[CULTURE]} if CULTURE in standing.subsets else figures


def _examples(answered: Sequence[Answered]) -> tuple[AnsweredSample, ...]:
    """Return samples spread over the set: first those that only the evolved merge answers right, then others."""
    parents = [each for each in answered if each.contender.role == "parent"]
    child = next(each for each in answered if each.contender.role == "winner").scored.answers

    def order(index: int) -> tuple[bool, int]:
        best_parent = max(each.scored.answers[index].score for each in parents)
        return not (child[index].score == 1.0 and best_parent < 1.0), index

    spread = max(1, len(child) // (4 * EXAMPLES))
    chosen = sorted(range(0, len(child), spread), key=order)[:EXAMPLES]
    return tuple(
        AnsweredSample(
            question=child[index].sample.question,
            reference=child[index].sample.references[0],
            answers={
                **{each.contender.name: each.scored.answers[index].text for each in parents},
                EVOLVED: child[index].text,
            },
        )
        for index in chosen
    )


def _write_model(recipe: Recipe, folder: Path) -> None:
    if not folder.exists():
        write_checkpoint(recipe, folder, check=check_loads)
    elif load_recipe(folder / "recipe.yaml", methods=METHODS).recipe_id != recipe.recipe_id:
        raise OutputExists(f"{folder} holds another model. Remove it, or give the demo another folder with --out.")
