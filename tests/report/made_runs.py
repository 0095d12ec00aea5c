"""Runs as a search leaves them, made without models: a real optimizer, fitnesses from a formula, answers by hand."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from evovlm.evaluation.answering import Answer, ScoredTask
from evovlm.recipes.candidate import Evaluation, Failure, Genome, TaskScore
from evovlm.recipes.documents import recipe_to_yaml
from evovlm.report.contenders import Contender
from evovlm.report.reading import open_run
from evovlm.runs.config import EvolveConfig
from evovlm.runs.journal import Entry, Journal
from evovlm.runs.saved_scores import saving
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.loop import Outcome, Proposal, search
from evovlm.tasks.sample import Sample
from evovlm.tasks.scoring import SampleScore

N_BLOCKS = 6
TASK = "word_problems_ja"


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
    **changes: object,
) -> Path:
    """Write the journal, config and winner of a whole search; candidates of the indices `failed` have failed."""
    config = config_of(**changes)
    folder.mkdir(parents=True)
    blocks = dict.fromkeys(config.merge.sources, N_BLOCKS)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    journal = Journal.create(folder / "journal.jsonl", config=config.as_mapping(), blocks=blocks)
    searched = config.searched(template=config.template(relative_to=None), blocks=blocks)
    optimizer = OPTIMIZERS[config.optimizer.kind](
        searched.initial,
        seed=config.seed,
        population=config.optimizer.population,
        sigma=config.optimizer.sigma,
        levels=searched.levels,
    )

    def entry(kind: str, genome: Genome, generation: int, outcome: Outcome) -> None:
        recipe_id = searched.recipe(genome).recipe_id
        index = len(journal.candidates)
        journal.append(
            Entry(kind=kind, index=index, generation=generation, genome=genome, recipe_id=recipe_id, outcome=outcome)
        )

    def outcome(proposal: Proposal) -> Outcome:
        found: Outcome = Failure(kind="not_finite", reason="[weights] <b>are</b> not finite")
        if proposal.index not in failed:
            found = evaluation(fitness(proposal.genome), n=n_samples, names=[task.name for task in config.tasks])
        entry("candidate", proposal.genome, proposal.generation, found)
        return found

    generations = search(
        optimizer,
        goes_on=lambda standing: standing.before + standing.candidates <= config.budget.candidates,
        evaluate=lambda proposals: [outcome(proposal) for proposal in proposals],
        on_generation=lambda _: None,
    )
    if finished:
        entry("mean", optimizer.mean, generations, evaluation(fitness(optimizer.mean), n=n_samples))
        best = max((each for each in journal.candidates if isinstance(each.outcome, Evaluation)), key=_fitness)
        text = recipe_to_yaml(searched.recipe(best.genome), folder=folder)
        (folder / "best.yaml").write_text(text, encoding="utf-8")
    return folder


def _fitness(entry: Entry) -> float:
    return entry.outcome.fitness if isinstance(entry.outcome, Evaluation) else -1.0


def answer(number: int, text: str, *, score: float = 1.0, **sample: object) -> Answer:
    """Return an answer to question `number`."""
    values = {"id": f"q{number}", "question": f"{number}に1を足すと?", "references": (str(number + 1),), **sample}
    japanese = score > 0
    found = SampleScore(score=score, ungated=score, japanese=japanese, extracted=str(number + 1))
    return Answer(sample=Sample(**values), text=text, score=found)


def scored(answers: Sequence[Answer], *, name: str = TASK, metric: str = "accuracy") -> ScoredTask:
    """Return a task as if it had been answered so."""
    return ScoredTask(
        name=name,
        metric=metric,
        measured=f"{metric}, script gate",
        gate="script",
        answers=tuple(answers),
        tokens=50 * len(answers),
        seconds={"generate": 1.0, "score": 0.1},
    )


def keep(run: Path, answers: Mapping[str, ScoredTask]) -> None:
    """Save contenders' answers in the run's folder, as a scoring does; by what the contenders are called."""
    known = {contender.name: contender for contender in open_run(run).contenders}
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
