"""Runs as a search leaves them, made without models: a real optimizer, fitnesses from a formula, answers by hand."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evovlm.evaluation.answers import ScoredTask
from evovlm.recipes.candidate import Evaluation, Failure, Genome, Outcome, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.runs.config.hybrid import PATH, HybridConfig
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.paths import UNKNOWN_HOST, PathConfig
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.entries import Entry, Parent, Stop
from evovlm.runs.folder.journal import Journal, best_distinct
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import Contender, contenders_of
from evovlm.runs.scores.saved import saving
from evovlm.search.loop import Proposal, search
from evovlm.tasks.metrics.scoring import Answer, Scoring
from evovlm.tasks.sample import Sample

N_BLOCKS = 6
TASK = "word_problems_ja"
OTHER_TASK = "word_problems_en"
LUCK = -0.125
"""The difference between the second scores of the best candidates and the estimates of the search."""


def document(**changes: object) -> dict[str, object]:
    """Return a search over the embedded models as it would stand in a file: 3 generations of 4 candidates."""
    return {
        "format": 1,
        "kind": "evolve",
        "seed": 3,
        "merge": {
            "base": "zoo:base",
            "sources": {"math": "zoo:math-a", "ja": "zoo:ja"},
            "method": "dare_ties",
            "seed": 1,
        },
        "space": {"kind": "layer"},
        "optimizer": {"kind": "cma", "population": 4},
        "budget": {"candidates": 12},
        "tasks": [{"name": TASK, "limit": 10}],
        **changes,
    }


def config_of(**changes: object) -> EvolveConfig:
    """Return the search of `document`."""
    return EvolveConfig.model_validate(document(**changes)).resolved(relative_to=None)


def closeness(genome: Genome) -> float:
    """Return a fitness in [0, 1]: 1 where every gene is 0.7."""
    return float(1.0 - np.abs(genome - 0.7).mean())


def evaluation(fitness: float, *, n: int = 10, names: Sequence[str] = (TASK,), tokens: int = 100) -> Evaluation:
    """Return an evaluation of that fitness on each of the tasks."""
    score = TaskScore(score=fitness, ungated=fitness, japanese=1.0, per_sample=(round(fitness, 6),) * n, n=n)
    seconds = {"merge": 0.5, "generate": 2.0, "score": 0.1}
    return Evaluation(scores=dict.fromkeys(names, score), fitness=fitness, seconds=seconds, tokens=tokens)


def make_run(
    folder: Path,
    *,
    failed: Collection[int] = (),
    fitness: Callable[[Genome], float] = closeness,
    n_samples: int = 10,
    finished: bool = True,
    parents: Sequence[Parent] = (),
    **changes: object,
) -> Path:
    """Write the journal, config and winner of a whole search; candidates of the indices `failed` have failed."""
    config = config_of(**changes)
    _write_search(
        folder, config, failed=failed, fitness=fitness, n_samples=n_samples, finished=finished, parents=parents
    )
    return folder


def path_document(**changes: object) -> dict[str, object]:
    """Return a search for paths through two of the embedded models: 2 generations of 4 candidates."""
    return {
        "format": 1,
        "kind": "evolve",
        "seed": 5,
        "merge": {
            "kind": "layer_path",
            "host": "zoo:math-a",
            "sources": {"math": "zoo:math-a", "ja": "zoo:ja"},
            "scale_target": "pending",
        },
        "space": {"kind": "path", "repetitions": 2},
        "optimizer": {"kind": "cma_margin", "population": 4},
        "budget": {"candidates": 8},
        "tasks": [{"name": TASK, "limit": 10}],
        "batch": 3,
        "validation": 4,
        **changes,
    }


def parent(source: str, score: float, *, name: str) -> Parent:
    """Return what a source alone scored on a task."""
    return Parent(source=source, scores=evaluation(score, names=[name]).scores, tokens=70, seconds={"all": 1.5})


def trading(**changes: object) -> dict[str, object]:
    """Return what makes `document` a search of two goals that trade, with constraints and everything chosen."""
    return {
        "merge": {
            "base": "zoo:base",
            "sources": {"math": "zoo:math-a", "ja": "zoo:ja"},
            "method": "della",
            "seed": 1,
        },
        "space": {"kind": "component", "choices": {"rescale": ["density", "l1"]}},
        "optimizer": {"kind": "cma_margin", "population": 8},
        "budget": {"candidates": 32},
        "tasks": [{"name": TASK, "limit": 10}, {"name": OTHER_TASK, "limit": 10}],
        "objective": {
            "pareto": True,
            "constraints": [
                {"task": TASK, "at_least": 0.7},
                {"task": OTHER_TASK, "measure": "score", "not_below": "math", "by": 0.05},
            ],
        },
        "rescore": 3,
        **changes,
    }


def make_trading_run(folder: Path) -> Path:
    """Write the search of `trading`, of whose sources `math` was asked before."""
    return make_run(folder, parents=[parent("math", 0.75, name=OTHER_TASK)], **trading())


def make_path_run(folder: Path) -> Path:
    """Write a search through layers."""
    _write_search(folder, PathConfig.model_validate(path_document()).resolved(relative_to=None))
    return folder


def make_hybrid_run(folder: Path) -> Path:
    """Write a hybrid: a search of 2 generations of 4 candidates in each stage."""
    first = config_of(budget={"candidates": 8})
    folder.mkdir(parents=True)
    ps = _write_search(folder / "ps", first)
    merge = {"kind": "layer_path", "sources": {"ja": "zoo:ja"}, "scale_target": "pending", "ps": None}
    stages = HybridConfig(
        ps=first,
        path=PathConfig.model_validate(path_document(merge=merge), context={UNKNOWN_HOST: True}),
    )
    stages = replace(stages, path=stages.stage(PATH, after=ps))
    (folder / "config.yaml").write_text(stages.to_yaml(), encoding="utf-8")
    last = _write_search(folder / "path", stages.path.resolved(relative_to=None))
    (folder / "best.yaml").write_text(recipe_to_yaml(last, folder=folder), encoding="utf-8")
    return folder


def _write_search(
    folder: Path,
    config: SearchConfig,
    *,
    failed: Collection[int] = (),
    fitness: Callable[[Genome], float] = closeness,
    n_samples: int = 10,
    finished: bool = True,
    parents: Sequence[Parent] = (),
) -> Recipe:
    """Write the search and return its best recipe."""
    folder.mkdir(parents=True)
    blocks = dict.fromkeys(config.template(relative_to=None).source_names, N_BLOCKS)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    journal = Journal.create(folder / "journal.jsonl", config=config.as_mapping(), blocks=blocks)
    for parent in parents:
        journal.append_parent(parent)
    objective = config.goal(journal.parents)
    space = config.space_for(blocks)
    optimizer = config.new_optimizer(space)

    def entry(kind: str, genome: Genome, generation: int, outcome: Outcome, *, index: int | None = None) -> None:
        recipe_id = space.decode(genome).recipe_id
        index = len(journal.candidates) if index is None else index
        journal.append(
            Entry(kind=kind, index=index, generation=generation, genome=genome, recipe_id=recipe_id, outcome=outcome)
        )

    def scored_as(genome: Genome, *, luck: float = 0.0) -> Evaluation:
        found = evaluation(fitness(genome) + luck, n=n_samples, names=[task.name for task in config.tasks])
        first, *others = found.scores
        against = evaluation(closeness(1.0 - genome), n=n_samples).scores[TASK]
        scores = {first: found.scores[first], **dict.fromkeys(others, against)}
        return objective.evaluation(scores, seconds=found.seconds, tokens=found.tokens)

    def outcome(proposal: Proposal) -> Outcome:
        found: Outcome = Failure(kind="not_finite", reason="[weights] <b>are</b> not finite")
        if proposal.index not in failed:
            found = scored_as(proposal.genome)
        if config.racing is not None:
            entry("part", proposal.genome, proposal.generation, found, index=proposal.index)
        entry("candidate", proposal.genome, proposal.generation, found)
        return found

    generations = search(
        optimizer,
        continues=lambda upcoming: upcoming.before + upcoming.candidates <= (config.budget.candidates or 0),
        evaluate=lambda proposals: [outcome(proposal) for proposal in proposals],
        on_generation=lambda _: None,
    )
    best = best_distinct(journal.candidates, max(config.rescored, 1))
    if finished:
        journal.append_stop(Stop(reason="candidates", generation=generations))
        if config.validation is not None:
            entry("snapshot", optimizer.mean, generations, scored_as(optimizer.mean))
        for each in best[: config.rescored]:
            entry("rescored", each.genome, generations, scored_as(each.genome, luck=LUCK), index=each.index)
        entry("mean", optimizer.mean, generations, scored_as(optimizer.mean))
        text = recipe_to_yaml(space.decode(best[0].genome), folder=folder)
        (folder / "best.yaml").write_text(text, encoding="utf-8")
    return space.decode(best[0].genome)


def answer(number: int, text: str, *, score: float = 1.0, **sample: object) -> Answer:
    """Return an answer to question `number`."""
    values = {"id": f"q{number}", "question": f"{number}に1を足すと?", "references": (str(number + 1),), **sample}
    return Answer(
        sample=Sample(**values),
        text=text,
        score=score,
        ungated=score,
        japanese=score > 0,
        extracted=str(number + 1),
    )


def scored(answers: Sequence[Answer], *, name: str = TASK, metric: str = "accuracy") -> ScoredTask:
    """Return a task as if it had been answered so."""
    return ScoredTask(
        name=name,
        metric=metric,
        measured=str(Scoring(metric=metric, gate="script")),
        gate="script",
        answers=tuple(answers),
        tokens=50 * len(answers),
        seconds={"generate": 1.0, "score": 0.1},
    )


def keep(run: Path, answers: Mapping[str, ScoredTask]) -> None:
    """Save contenders' answers in the run's folder, as a scoring does; by what the contenders are called."""
    known = {contender.name: contender for contender in contenders_of(Run.open(run))}
    for name, task in answers.items():
        keep_one(known[name], run, task)


def keep_one(contender: Contender, run: Path, task: ScoredTask) -> None:
    """Save one contender's answers."""
    settings = {"split": "report", "models": [{"model": contender.text(run)}], "tasks": [{"task": task.name}]}
    contender.folder(run).parent.mkdir(exist_ok=True)
    with saving(contender.folder(run), settings=settings) as saved:
        saved.keep(0, 0, task)


def everyones_answers(n: int = 6) -> dict[str, ScoredTask]:
    """Return answers of all contenders of `document`: the child is right on all but the last, `math` on the last."""
    return {
        "winner": scored([answer(each, f"答えは{each + 1}です。", score=float(each < n - 1)) for each in range(n)]),
        "math": scored([answer(each, f"The answer is {each}.", score=float(each == n - 1)) for each in range(n)]),
        "ja": scored([answer(each, "わかりません。", score=0.0) for each in range(n)]),
        "equal-weights": scored([answer(each, f"{each + 1}", score=float(each < 2)) for each in range(n)]),
    }
