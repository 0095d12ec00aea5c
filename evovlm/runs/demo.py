"""The demo: both pipelines on the embedded models, each against its sources and two baselines, on the report split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evovlm.assets import asset_path
from evovlm.errors import ConfigError, OutputExists
from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import PreparedTask, ScoredTask, TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.intervals import mean_interval
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.checkpoint.writer import write_checkpoint
from evovlm.recipes.candidate import TaskScore
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import parameter_merge_only
from evovlm.recipes.recipe import MergeTemplate, ParameterMerge, SourceParameters
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.searching.evolve import evolve, open_evaluator
from evovlm.runs.searching.search import Observer
from evovlm.tasks.task import Split

CULTURE = "culture"
EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One of the demo's two searches: its config in configs/, its candidates, full and quick."""

    name: str
    title: str
    config: str
    candidates: int
    quick_candidates: int
    quick_limit: int


PIPELINES: Mapping[str, Pipeline] = {
    "evollm": Pipeline(
        name="evollm",
        title="EvoLLM: a Japanese math LLM",
        config="configs/demo-evollm.yaml",
        candidates=105,
        quick_candidates=30,
        quick_limit=80,
    ),
    "evovlm": Pipeline(
        name="evovlm",
        title="EvoVLM: a Japanese VLM",
        config="configs/demo-evovlm.yaml",
        candidates=96,
        quick_candidates=24,
        quick_limit=120,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one model did on the report split; `culture` where the task has that subset."""

    score: TaskScore
    interval: tuple[float, float]
    culture: float | None

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        figures: dict[str, object] = {
            "score": self.score.score,
            "interval": list(self.interval),
            "ungated": self.score.ungated,
            "japanese": self.score.japanese,
        }
        return figures if self.culture is None else {**figures, "culture": self.culture}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One report sample with everyone's answer."""

    question: str
    reference: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """What a pipeline found. `search_fitness` is the winner's on the search split, the standings are on the report."""

    pipeline: Pipeline
    task: str
    candidates: int
    search_fitness: float
    sources: Mapping[str, Standing]
    uniform: Standing
    random: Standing
    evolved: Standing
    examples: tuple[Example, ...]
    run_folder: Path
    model_folder: Path

    def as_json(self) -> Mapping[str, object]:
        """Return the standings as plain values."""
        return {
            "sources": {name: standing.as_json() for name, standing in self.sources.items()},
            "uniform": self.uniform.as_json(),
            "random": self.random.as_json(),
            "evolved": self.evolved.as_json(),
        }


def run_pipeline(
    pipeline: Pipeline,
    *,
    out: Path,
    quick: bool,
    seed: int,
    observe: Callable[[str], Observer],
    say: Callable[[str], None] = lambda _: None,
) -> PipelineResult:
    """Run one pipeline in the folder `out`, or go on where an interrupted one stopped.

    `observe` gives the observer of each search by its title; `say` is told what else takes time.
    Raises RunMismatch when the folder was made with other settings, OutputExists when its model is another.
    """
    config = demo_config(pipeline, quick=quick, seed=seed)
    template = config.template(relative_to=None)
    evaluator = open_evaluator(config, template)
    searches = {
        name: evolve(variant, out=out / name, resume=True, observer=observe(title), evaluator=evaluator)
        for name, title, variant in (
            ("random", "random search", _with_optimizer(config, "random")),
            ("evolved", "evolution", config),
        )
    }
    say("scoring everyone on the report split")
    task = open_task(TaskChoice(name=config.tasks[0].name), Split.REPORT).prepare(evaluator.loaded)
    recipes = {
        **{name: only(template, name) for name in template.sources},
        "uniform": uniform(template),
        **{name: parameter_merge_only(result.recipe) for name, result in searches.items()},
    }
    scored = {name: _scored(evaluator, task, recipe) for name, recipe in recipes.items()}
    standings = {name: _standing(each) for name, each in scored.items()}
    model = out / "model"
    _write_model(recipes["evolved"], model)
    return PipelineResult(
        pipeline=pipeline,
        task=config.tasks[0].name,
        candidates=searches["evolved"].candidates,
        search_fitness=searches["evolved"].fitness,
        sources={name: standings[name] for name in template.sources},
        uniform=standings["uniform"],
        random=standings["random"],
        evolved=standings["evolved"],
        examples=_examples(scored, sources=tuple(template.sources)),
        run_folder=out / "evolved",
        model_folder=model,
    )


def demo_config(pipeline: Pipeline, *, quick: bool, seed: int) -> EvolveConfig:
    """Return the pipeline's config with the demo's budget and the given seed of the search."""
    config = load_config(asset_path(pipeline.config))
    if not isinstance(config, EvolveConfig):
        raise ConfigError(f"{pipeline.config}: the demo searches parameters, not paths.")
    candidates = pipeline.quick_candidates if quick else pipeline.candidates
    changes: dict[str, object] = {"seed": seed, "budget": config.budget.model_copy(update={"candidates": candidates})}
    if quick:
        changes["tasks"] = [task.model_copy(update={"limit": pipeline.quick_limit}) for task in config.tasks]
    return config.model_copy(update=changes)


def only(template: MergeTemplate, source: str) -> ParameterMerge:
    """Return the recipe that puts one source whole in the place of the host's language model."""
    return template.recipe(
        {name: SourceParameters(weight=1.0 if name == source else 0.0, density=1.0) for name in template.sources}
    )


def uniform(template: MergeTemplate) -> ParameterMerge:
    """Return the unoptimised merge: every source with weight 1 / n, nothing dropped."""
    share = 1.0 / len(template.sources)
    return template.recipe({name: SourceParameters(weight=share, density=1.0) for name in template.sources})


def _with_optimizer(config: EvolveConfig, kind: str) -> EvolveConfig:
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"kind": kind})})


def _scored(evaluator: Evaluator, task: PreparedTask, recipe: ParameterMerge) -> ScoredTask:
    evaluator.merge_into_resident(recipe)
    return task.answer(evaluator.loaded)


def _standing(scored: ScoredTask) -> Standing:
    score = scored.score
    low, high = mean_interval(score.per_sample)
    culture = scored.tagged(CULTURE)
    return Standing(score=score, interval=(low, high), culture=culture.score if culture else None)


def _examples(scored: Mapping[str, ScoredTask], *, sources: Sequence[str]) -> tuple[Example, ...]:
    """Return the first samples that only the child gets right, then the first others, spread over the set."""
    child = scored["evolved"].answers

    def told(index: int) -> tuple[bool, int]:
        best_parent = max(scored[name].answers[index].score.score for name in sources)
        return not (child[index].score.score == 1.0 and best_parent < 1.0), index

    spread = max(1, len(child) // (4 * EXAMPLES))
    chosen = sorted(range(0, len(child), spread), key=told)[:EXAMPLES]
    return tuple(
        Example(
            question=child[index].sample.question,
            reference=child[index].sample.references[0],
            answers={name: scored[name].answers[index].text for name in (*sources, "evolved")},
        )
        for index in chosen
    )


def _write_model(recipe: ParameterMerge, folder: Path) -> None:
    if not folder.exists():
        write_checkpoint(recipe, folder)
    elif load_recipe(folder / "recipe.yaml", methods=METHODS).recipe_id != recipe.recipe_id:
        raise OutputExists(f"{folder} holds another model. Remove it, or give the demo another folder with --out.")
