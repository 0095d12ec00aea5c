"""What a search would cost, before it starts: counted from its config, timed on a few samples. Writes nothing."""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from evovlm.errors import CodeNotAllowed, ConfigError, TaskError
from evovlm.evaluation.answers import PreparedTask, ScoredTask, TaskChoice
from evovlm.evaluation.engines.engine import Engine
from evovlm.evaluation.evaluator import Evaluator
from evovlm.merging.before.findings import SearchMemory
from evovlm.models.loading import LoadedModel
from evovlm.recipes.candidate import Evaluation, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.before.preflight import preflight_search
from evovlm.runs.config.hybrid import HybridConfig
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.entries import Entry, entry_row
from evovlm.runs.samples import SampleParts
from evovlm.runs.workers import engine_of, peak_memory
from evovlm.search.racing import looks
from evovlm.tasks.catalogue import code_of_tasks, get_task
from evovlm.tasks.harness_name import is_harness_name
from evovlm.tasks.metrics.judges import JUDGES

# The cheapest metric that scores any text.
_STAND_IN = "exact_match"

FEW, MORE = 4, 12
"""The sizes of the two timed batches of each task: a batch's speed depends on its size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """An estimate: a number that is probably between `low` and `high`."""

    low: float = 0.0
    high: float = 0.0

    def times(self, factor: float) -> "Span":
        """Return both ends times a factor."""
        return Span(low=self.low * factor, high=self.high * factor)

    def plus(self, other: "Span") -> "Span":
        """Return the sum of both."""
        return Span(low=self.low + other.low, high=self.high + other.high)

    @property
    def middle(self) -> float:
        """The mean of its ends."""
        return (self.low + self.high) / 2


class SampleCost(NamedTuple):
    """The cost of one sample of a task when all samples of a candidate are asked at once."""

    tokens: Span
    seconds: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskForecast:
    """A task's samples for one candidate and for the whole search, and the cost of one sample."""

    name: str
    samples_per_candidate: int
    samples: int
    tokens_per_sample: Span
    seconds_per_sample: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a search would cost; bytes are None where they are not known in advance.

    `generations` is None where patience is the only bound of the budget: every number is then that of one generation.
    `memory_bytes` is the peak of the process so far, `device_bytes` that of a GPU; `memory` is what the search will
    hold, as `check` says it. `candidate_seconds` are those of one candidate: its merge and all its answers.
    """

    genes: int
    population: int
    generations: int | None
    candidates: int
    samples: int
    tokens: Span
    seconds: Span
    merge_seconds: Span
    candidate_seconds: Span
    tasks: tuple[TaskForecast, ...]
    journal_bytes: int
    checkpoint_bytes: int | None
    download_bytes: int | None
    memory_bytes: int
    device_bytes: int | None
    memory: SearchMemory | None
    assumptions: tuple[str, ...]

    def as_json(self) -> Mapping[str, object]:
        """Return it as plain values."""
        return asdict(self)


def forecast(config: SearchConfig) -> Forecast:
    """Open a resolved search's models, merge its first point, answer a few samples of each task, and extrapolate.

    Raises what `evolve` raises before its first candidate.
    """
    return _forecast(config).forecast


def forecast_stages(config: SearchConfig | HybridConfig) -> Mapping[str, Forecast]:
    """Return what each stage of a resolved search would cost, by its name; see `forecast`.

    The first point of a hybrid's first stage is used in place of its winner.
    """
    found: dict[str, Forecast] = {}
    start: Recipe | None = None
    for name in config.stages:
        found[name], start = _forecast(config.stage(name, after=start))
    return found


class _Found(NamedTuple):
    forecast: Forecast
    start: Recipe


class _Asked(NamedTuple):
    """The number of candidates of a search, of its other merges, and of samples of each task."""

    candidates: int
    others: int
    samples: tuple[int, ...]

    def spent(self, merge: Span, costs: Sequence[SampleCost]) -> tuple[Span, Span]:
        """Return the tokens and the seconds that they cost, for the seconds of a merge and the costs of each task."""
        tokens, seconds = Span(), merge.times(self.candidates + self.others)
        for cost, count in zip(costs, self.samples, strict=True):
            tokens, seconds = tokens.plus(cost.tokens.times(count)), seconds.plus(cost.seconds.times(count))
        return tokens, seconds


def _forecast(config: SearchConfig) -> _Found:
    found = preflight_search(config)
    found.raise_problems()
    choices = _without_foreign_metrics(config.task_choices())
    chosen = engine_of(config)
    evaluator = Evaluator.open(
        config.template(relative_to=None), tasks=choices, device=config.device, engine=chosen.engine
    )
    space = config.space_for(evaluator.resident.blocks)
    start = space.decode(space.initial)
    sizes = {task.name: task.n_samples for task in evaluator.tasks}
    parts = SampleParts(sizes=sizes, seed=config.seed, batch=config.batch, validation=config.validation)
    own = _of_candidate(config, parts)
    merge = timed_merge(evaluator, start)
    costs = [
        timed_answers(task, evaluator.resident.engine, at_once=n) for task, n in zip(evaluator.tasks, own, strict=True)
    ]
    evaluator.resident.engine.close()
    population = config.population(dim=space.dim)
    one = _Asked(candidates=population, others=0, samples=tuple(population * count for count in own))
    generations = _generations(config, one, merge=merge, costs=costs)
    asked = _asked(config, parts, candidates=population * (generations or 1), generations=generations or 1)
    tokens, seconds = asked.spent(merge, costs)
    line = _line_bytes(
        sizes, own, dim=space.dim, partial=config.racing is not None or parts.of_candidates(0) is not None
    )
    peak = peak_memory()
    return _Found(
        Forecast(
            genes=space.dim,
            population=population,
            generations=generations,
            candidates=asked.candidates,
            samples=sum(asked.samples),
            tokens=tokens,
            seconds=seconds,
            merge_seconds=merge,
            candidate_seconds=_Asked(candidates=1, others=0, samples=own).spent(merge, costs)[1],
            tasks=_tasks(sizes, own, asked, costs),
            journal_bytes=(asked.candidates + asked.others) * line,
            checkpoint_bytes=found.needs.result_bytes if found.needs else None,
            download_bytes=found.needs.download_bytes if found.needs else None,
            memory_bytes=peak["process"],
            device_bytes=peak.get("gpu"),
            memory=found.memory,
            assumptions=(*((chosen.note,) if chosen.had_choice else ()), *_assumptions(config, generations)),
        ),
        start,
    )


def _without_foreign_metrics(choices: Sequence[TaskChoice]) -> tuple[TaskChoice, ...]:
    """Return the tasks with a built-in metric instead of a script's or a judge's: a dry run runs no code that a file
    names, and calls nobody.

    Raises CodeNotAllowed for a task file of the harness, which cannot be asked without running it.
    """
    timed = []
    for choice in choices:
        code = code_of_tasks([choice.name])
        if code and is_harness_name(choice.name):
            raise CodeNotAllowed(
                f"{choice.name}: a dry run runs no code, and this task is code ({code[0].file}).\n"
                "    Make the dry run with a copy of the config that leaves this task out."
            )
        judged = not is_harness_name(choice.name) and get_task(choice.name).scoring.metric in JUDGES
        timed.append(replace(choice, metric=_STAND_IN) if code or judged else choice)
    return tuple(timed)


def _asked(config: SearchConfig, parts: SampleParts, *, candidates: int, generations: int) -> _Asked:
    """Return the numbers of candidates, of other merges (means and parents), and of samples."""
    own, of_mean = _of_candidate(config, parts), _counts(parts.of_means(), parts.sizes)
    # A snapshot before each generation, and the mean at the end; without snapshots, only that mean.
    means = 1 if config.validation is None else generations + 1
    if config.racing is not None or parts.of_candidates(0) != parts.of_means():
        # Otherwise their full scores are known already.
        means += min(config.rescored, candidates)
    parents = config.objective.parents
    samples = tuple(
        candidates * first + means * second + sum(name in tasks for tasks in parents.values()) * size
        for first, second, (name, size) in zip(own, of_mean, parts.sizes.items(), strict=True)
    )
    return _Asked(candidates=candidates, others=means + len(parents), samples=samples)


def _generations(config: SearchConfig, one: _Asked, *, merge: Span, costs: Sequence[SampleCost]) -> int | None:
    """Return the generations until the first bound is reached, by the middle of the estimated cost of `one`."""
    budget = config.budget
    tokens, seconds = one.spent(merge, costs)
    bounds = [budget.generations(population=one.candidates)]
    for bound, cost in ((budget.tokens, tokens), (budget.seconds, seconds)):
        if bound is not None and cost.middle > 0:
            bounds.append(max(1, math.ceil(bound / cost.middle)))
    return min((bound for bound in bounds if bound is not None), default=None)


def _assumptions(config: SearchConfig, generations: int | None) -> tuple[str, ...]:
    assumed = [
        f"every candidate's answers are as long as the first point's, which was asked {MORE} samples of each task",
        "one worker, nothing else on the machine",
        "memory so far is the peak while timing; the lines below it are computed, for the whole search",
    ]
    scripts = [code[0].file for task in config.tasks if (code := code_of_tasks([task.name]))]
    assumed += [f"scoring by {script} is not counted: a dry run runs no code" for script in dict.fromkeys(scripts)]
    if config.racing is not None:
        assumed.append("every candidate runs to the last block of its race, which most do not")
    if config.budget.tokens is not None or config.budget.seconds is not None:
        assumed.append(
            "a budget of tokens or seconds ends the search where the middle of the estimated range reaches it"
        )
    if not config.optimizer.keeps_population:
        assumed.append(
            "no restart: each changes how many candidates a generation has, and so how many generations there are"
        )
    if generations is None:
        assumed.append("patience is the only bound of the budget: all numbers are those of one generation")
    elif config.budget.patience is not None:
        assumed.append("patience may end it earlier")
    if config.objective.parents:
        assumed.append("a parent of a constraint takes as long as a candidate; the time to open it is not counted")
    return tuple(assumed)


def _tasks(
    sizes: Mapping[str, int], own: Sequence[int], asked: _Asked, costs: Sequence[SampleCost]
) -> tuple[TaskForecast, ...]:
    return tuple(
        TaskForecast(
            name=name,
            samples_per_candidate=count,
            samples=samples,
            tokens_per_sample=cost.tokens,
            seconds_per_sample=cost.seconds,
        )
        for name, count, samples, cost in zip(sizes, own, asked.samples, costs, strict=True)
    )


def _of_candidate(config: SearchConfig, parts: SampleParts) -> tuple[int, ...]:
    """Return the largest number of samples of each task that a candidate is scored on."""
    counts = _counts(parts.of_candidates(0), parts.sizes)
    rules = config.racing
    if rules is None:
        return counts
    return looks(first=rules.first, growth=rules.growth, limit=rules.limit, sizes=counts)[-1]


def _counts(rows: Sequence[Sequence[int]] | None, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes.values()) if rows is None else tuple(map(len, rows))


def _line_bytes(sizes: Mapping[str, int], own: Sequence[int], *, dim: int, partial: bool) -> int:
    """Return the approximate length of a candidate's line in the journal."""
    third = 1 / 3
    scores = {
        name: TaskScore(
            score=third,
            ungated=third,
            japanese=third,
            per_sample=(0.0,) * count,
            n=count,
            rows=tuple(range(count)) if partial else None,
        )
        for name, count in zip(sizes, own, strict=True)
    }
    outcome = Evaluation(
        scores=scores, fitness=third, seconds=dict.fromkeys(("merge", "generate", "score"), 12.3456), tokens=99_999
    )
    entry = Entry(
        kind="candidate",
        index=9_999,
        generation=99,
        genome=np.full(dim, third),
        recipe_id="0" * 12,
        outcome=outcome,
        wall_s=12.3456,
    )
    return len(json.dumps(entry_row(entry))) + 1


def timed_merge(evaluator: Evaluator, recipe: Recipe) -> Span:
    """Return the seconds of a merge, after which the model is that of the recipe.

    It is merged three times, and the first is not counted. Raises ConfigError when its weights are not finite.
    """
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        if not evaluator.resident.merge(recipe):
            raise ConfigError(f"recipe {recipe.recipe_id}: the merged weights are not finite. Lower its weights.")
        taken.append(time.perf_counter() - started)
    return Span(low=min(taken[1:]), high=max(taken[1:]))


def timed_answers(task: PreparedTask, engine: Engine, *, at_once: int) -> SampleCost:
    """Return the cost of a sample where `at_once` are asked together, from a batch of `FEW` and one of `MORE`.

    A task that can only be asked as a whole is asked as a whole. Tokens range over two standard errors of their mean.
    Seconds range from an extrapolation, in which each further sample costs as much as those between the two batches
    did, to the larger batch's seconds per sample.
    """
    with torch.inference_mode():
        try:
            few, few_s = _answered(task.part(_spread(task.n_samples, FEW)), engine)
            more, more_s = _answered(task.part(_spread(task.n_samples, MORE)), engine)
        except TaskError:
            few, few_s = more, more_s = _answered(task, engine)
    n_few, n_more = len(few.answers), len(more.answers)
    tokens = _tokens(more, engine.loaded)
    share = tokens.times(n_more / more.tokens) if more.tokens else Span(low=1.0, high=1.0)
    each = more_s / n_more
    further = (more_s - few_s) / (n_more - n_few) if n_more > n_few and more_s > few_s else each
    at_best = (more_s + further * max(0, at_once - n_more)) / max(at_once, n_more)
    ends = sorted((each, at_best))
    return SampleCost(tokens=tokens, seconds=Span(low=ends[0] * share.low, high=ends[1] * share.high))


def _answered(task: PreparedTask, engine: Engine) -> tuple[ScoredTask, float]:
    started = time.perf_counter()
    scored = task.answer(engine)
    return scored, time.perf_counter() - started


def _spread(size: int, most: int) -> Sequence[int]:
    """Return `most` rows, or all of fewer, at even distances."""
    count = min(size, most)
    return [index * size // count for index in range(count)]


def _tokens(scored: ScoredTask, loaded: LoadedModel) -> Span:
    """Return the tokens of one answer: their mean, plus and minus two standard errors."""
    mean = scored.tokens / len(scored.answers)
    lengths = [len(loaded.tokenizer(answer.text)["input_ids"]) for answer in scored.answers]
    error = statistics.stdev(lengths) / math.sqrt(len(lengths)) if len(lengths) > 1 else mean / 2
    return Span(low=max(0.0, mean - 2 * error), high=mean + 2 * error)
