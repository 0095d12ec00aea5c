"""Which optimizer finds the best path through the layers of the embedded models, at the same budget?

    python benchmarks/dfs_search.py [--seeds 5] [--generations 20] [--population 16] [--out runs/dfs-search]

configs/demo-dfs.yaml with each optimizer and seed: plain CMA-ES over thresholded genes, the encodings that treat binary
genes as such, and random search, uniform and around the start. All score the same numbers of samples: batches for the
candidates, validation samples for the means, of which the best wins. Prints the table of benchmarks/LOG.md: the winners
on the report split, scores x 100, means over the seeds. Runs are kept in --out; runs that are already there are not
repeated.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import PreparedTask, TaskChoice
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.intervals import mean_interval
from evovlm.recipes.candidate import TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.recipes.path_space import SCALES
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.searching.evolve import evolve, open_evaluator
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.tasks.task import Split

CONFIG = Path(__file__).parents[1] / "configs" / "demo-dfs.yaml"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search: its winner's held-out score, its validation score, and its length."""

    held_out: TaskScore
    validation: float
    hops: int
    tokens: int


def changed(config: PathConfig, arguments: argparse.Namespace) -> PathConfig:
    """Return the search with the numbers of the command line."""
    return config.model_copy(
        update={
            "budget": config.budget.model_copy(update={"candidates": arguments.generations * arguments.population}),
            "optimizer": config.optimizer.model_copy(update={"population": arguments.population}),
            "space": config.space.model_copy(update={"scales": arguments.scales, "repetitions": arguments.repetitions}),
            "tasks": [task.model_copy(update={"limit": arguments.limit}) for task in config.tasks],
            "batch": arguments.batch,
            "validation": arguments.validation,
        }
    )


def run_search(config: PathConfig, *, out: Path, evaluator: Evaluator, task: PreparedTask) -> Run:
    """Run one search, or read its result, and score its winner."""
    result = evolve(config, out=out, resume=True, evaluator=evaluator)
    held_out = score(evaluator, task, result.recipe)
    return Run(held_out=held_out, validation=result.fitness, hops=len(result.recipe.path), tokens=result.tokens)


def score(evaluator: Evaluator, task: PreparedTask, recipe: Recipe) -> TaskScore:
    """Score a recipe on the report split."""
    evaluator.resident.merge(recipe)
    return task.answer(evaluator.resident.engine).score


def row(name: str, runs: list[Run]) -> str:
    """Return a line of the table; the interval of the mean over seeds is over the report samples."""
    per_seed = [100 * run.held_out.score for run in runs]
    by_sample = [sum(values) / len(runs) for values in zip(*(run.held_out.per_sample for run in runs), strict=True)]
    low, high = mean_interval(by_sample)
    mean = sum(per_seed) / len(runs)
    japanese = 100 * sum(run.held_out.japanese for run in runs) / len(runs)
    validation = 100 * sum(run.validation for run in runs) / len(runs)
    hops = ", ".join(str(run.hops) for run in runs)
    seeds = ", ".join(f"{value:.1f}" for value in per_seed)
    return (
        f"| {name} | {mean:.1f} | {100 * low:.1f} - {100 * high:.1f} | {seeds} | {validation:.1f} | "
        f"{japanese:.0f} % | {hops} |"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--validation", type=int, default=80)
    parser.add_argument("--limit", type=int, default=240, help="search samples, including the validation samples")
    parser.add_argument("--report", type=int, default=None, help="report samples (default: all)")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--scales", choices=SCALES, default="per_position")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--out", type=Path, default=None, help="folder for the runs; existing runs are reused")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    loaded = load_config(CONFIG)
    config = changed(loaded.resolved(relative_to=CONFIG.parent), arguments)
    evaluator = open_evaluator(config)
    task = open_task(TaskChoice(name=config.tasks[0].name, limit=arguments.report), Split.REPORT).prepare(
        evaluator.loaded
    )
    space = config.space_for(evaluator.resident.blocks)
    start = space.decode(space.initial)
    print(f"{space.dim} genes, of which {int((space.levels == 2).sum())} are binary", file=sys.stderr)
    print("| optimizer | held out | 95 % | seeds | validation | Japanese | hops |\n|---|---|---|---|---|---|---|")
    alone = Run(held_out=score(evaluator, task, start), validation=float("nan"), hops=len(start.path), tokens=0)
    print(row("the host as it is", [alone]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        for kind in arguments.optimizers:
            runs = []
            for seed in range(arguments.seeds):
                began = time.monotonic()
                optimizer = config.optimizer.model_copy(update={"kind": kind})
                variant = config.model_copy(update={"seed": seed, "optimizer": optimizer})
                runs.append(run_search(variant, out=folder / f"{kind}-{seed}", evaluator=evaluator, task=task))
                print(
                    f"{kind} {seed}: {100 * runs[-1].held_out.score:.1f}, {runs[-1].tokens} tokens, "
                    f"{time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                )
            print(row(kind, runs), flush=True)


if __name__ == "__main__":
    main()
