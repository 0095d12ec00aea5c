"""Several runs side by side: their curves, with intervals over seeds, and their winners pair by pair."""

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from evovlm.errors import ConfigError
from evovlm.evaluation.answers import ScoredTask
from evovlm.evaluation.intervals import Interval, mean_interval
from evovlm.report.content import Band, RunContent, RunPair, RunsContent
from evovlm.report.reading import read_run
from evovlm.runs.run import Run
from evovlm.runs.scores.contenders import contenders_of, scored_of
from evovlm.runs.scores.standings import compared


def read_runs(folders: Sequence[Path]) -> RunsContent:
    """Return several runs side by side. Raises ConfigError if one is named twice, and what `read_run` raises."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is named twice. Name each once.")
    opened = [Run.open(folder) for folder in folders]
    runs = tuple(read_run(folder) for folder in folders)
    labels = _labels(folders)
    tasks = {json.dumps(run.journal.config.get("tasks")) for run in opened}
    return RunsContent(
        runs=runs,
        labels=labels,
        # Fitnesses on different samples have no common axis.
        bands=_bands(opened, runs, labels) if len(tasks) == 1 else (),
        pairs=_pairs(opened, labels),
        same_tasks=len(tasks) == 1,
        score_command=shlex.join(["evovlm", "report", *map(str, folders), "--score"]),
    )


def _labels(folders: Sequence[Path]) -> tuple[str, ...]:
    """Return the shortest ends of the folders' paths that distinguish them."""
    paths = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths))):
        labels = tuple("/".join(parts[-depth:]) for parts in paths)
        if len(set(labels)) == len(labels):
            return labels
    return tuple("/".join(parts) for parts in paths)


def _bands(opened: Sequence[Run], runs: Sequence[RunContent], labels: Sequence[str]) -> tuple[Band, ...]:
    groups: dict[str, list[int]] = {}
    for place, run in enumerate(opened):
        if runs[place].last.course.points:
            groups.setdefault(_kind(run), []).append(place)
    return tuple(
        _band([runs[place] for place in places], [labels[place] for place in places]) for places in groups.values()
    )


def _kind(run: Run) -> str:
    """Return a run's configs without the seed and without the second stage's recipe, which depends on it."""
    configs = []
    for search in run.searches.values():
        config = {**search.journal.config, "seed": None}
        merge = config.get("merge")
        configs.append({**config, "merge": {**merge, "ps": None}} if isinstance(merge, dict) else config)
    return json.dumps(configs, sort_keys=True)


def _band(runs: Sequence[RunContent], labels: Sequence[str]) -> Band:
    curves = [_curve(run) for run in runs]
    begin = max(curve[0][0] for curve in curves)
    places = sorted({tokens for curve in curves for tokens, _ in curve if tokens >= begin})
    values = [[_at(curve, place) for curve in curves] for place in places]
    means = [sum(each) / len(each) for each in values]
    ends = [
        mean_interval(each) if len(each) > 1 else Interval(mean, mean) for each, mean in zip(values, means, strict=True)
    ]
    return Band(
        label=", ".join(labels[:3]) + (", ..." if len(labels) > 3 else ""),
        runs=tuple(labels),
        tokens=tuple(places),
        mean=tuple(means),
        low=tuple(end.low for end in ends),
        high=tuple(end.high for end in ends),
    )


def _curve(run: RunContent) -> list[tuple[int, float]]:
    """Return (generated tokens, best so far) of a run's last search; the tokens of the searches before it count."""
    before = sum(stage.cost.tokens for stage in run.stages[:-1])
    return [(before + point.tokens, point.best_so_far) for point in run.last.course.points]


def _at(curve: Sequence[tuple[int, float]], place: int) -> float:
    return [value for tokens, value in curve if tokens <= place][-1]


def _pairs(opened: Sequence[Run], labels: Sequence[str]) -> tuple[RunPair, ...]:
    answered = [_of_winner(run) for run in opened]
    found = []
    for (first, ours), (second, theirs) in itertools.combinations(zip(labels, answered, strict=True), 2):
        other = {task.name: task for task in theirs}
        for task in ours:
            comparison = compared(task, other[task.name]) if task.name in other else None
            if comparison is not None:
                found.append(RunPair(task=task.name, first=first, second=second, comparison=comparison))
    return tuple(found)


def _of_winner(run: Run) -> tuple[ScoredTask, ...]:
    winner = next((each for each in contenders_of(run) if each.role == "winner"), None)
    return scored_of(winner, run.folder) if winner is not None else ()
