"""Compare paths through layers, alone and after a parameter merge, with the merge, for equal numbers of scored samples.

    python benchmarks/dfs_against_ps.py [--seeds 3] [--pipelines evollm evovlm] [--kinds ps dfs ps+dfs] [--report N]
        [--out runs/dfs-against-ps] [--quick]

Runs the searches of configs/demo-hybrid.yaml and configs/demo-hybrid-vlm.yaml on the embedded models: the first stage
alone (ps), the second alone with an embedded host (dfs), and both, each with half of the samples (ps+dfs). Each search
may score as many samples as the config's first stage does for candidates and mean, including snapshots, in whole
generations. Prints the table of benchmarks/LOG.md: the winners on the report split, scores x 100, means over the seeds;
the intervals of these means are over the report samples. Runs are kept in --out; runs that are already there are not
repeated.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from evovlm.errors import ConfigError
from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import TaskChoice
from evovlm.evaluation.engines.builtin import BuiltinEngine
from evovlm.evaluation.intervals import difference_interval, mean_interval
from evovlm.evaluation.resident import load_recipe_model
from evovlm.recipes.candidate import Evaluation, TaskScore
from evovlm.recipes.model_ref import ModelRef, count_blocks, read_config
from evovlm.runs.config.hybrid import HybridConfig, load_search
from evovlm.runs.config.paths import PathConfig
from evovlm.runs.config.search import SearchConfig
from evovlm.runs.folder.journal import read_journal
from evovlm.runs.folder.layout import JOURNAL_FILE
from evovlm.runs.searching.evolve import RunResult, evolve, run_search
from evovlm.tasks.catalogue import get_task
from evovlm.tasks.task import Split

CONFIGS = Path(__file__).parents[1] / "configs"
KINDS = ("ps", "dfs", "ps+dfs")
Config = TypeVar("Config", bound=SearchConfig)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A hybrid's config, and the models of a path without a first stage; the host is the first of them."""

    config: str
    sources: Mapping[str, str]


PIPELINES = {
    "evollm": Pipeline(config="demo-hybrid.yaml", sources={"ja": "zoo:ja", "math": "zoo:math-a"}),
    "evovlm": Pipeline(config="demo-hybrid-vlm.yaml", sources={"vlm": "zoo:vlm", "ja": "zoo:ja"}),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search: its winner's held-out score, its cost, and its hops (None: no path)."""

    held_out: TaskScore
    scored: int
    hops: int | None


def load_hybrid(pipeline: Pipeline, *, quick: bool) -> HybridConfig:
    """Return the pipeline's config, its paths absolute; `quick` with very few samples."""
    path = CONFIGS / pipeline.config
    found = load_search(path)
    if not isinstance(found, HybridConfig):
        raise ConfigError(f"{path} is no hybrid.")
    found = found.resolved(relative_to=path.parent)
    if not quick:
        return found
    tasks = [task.model_copy(update={"limit": 24}) for task in found.ps.tasks]
    ps = found.ps.model_copy(
        update={"tasks": tasks, "budget": found.ps.budget.model_copy(update={"candidates": 60})},
    )
    path_stage = found.path.model_copy(update={"tasks": tasks, "batch": 6, "validation": 12})
    return HybridConfig(ps=ps, path=path_stage)


def alone(config: PathConfig, sources: Mapping[str, str]) -> PathConfig:
    """Return the search for paths through these models without a first stage; the first model is the host."""
    changes = {"ps": None, "host": next(iter(sources.values())), "sources": dict(sources)}
    return config.model_copy(update={"merge": config.merge.model_copy(update=changes)})


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Numbers of scored samples: outside the generations, and in each generation with its candidates."""

    once: int
    generation: int
    population: int

    @classmethod
    def of(cls, config: SearchConfig) -> "Cost":
        """Return what a search over one task costs."""
        [task] = config.tasks
        n_samples = len(get_task(task.name).samples(Split.SEARCH, limit=task.limit))
        kept = config.validation or 0
        template = config.template(relative_to=None)
        # All embedded models have the same number of blocks.
        blocks = dict.fromkeys(template.source_names, _n_blocks(next(iter(template.sources.values()))))
        population = config.population(dim=config.space_for(blocks).dim)
        each = config.batch or n_samples - kept
        return cls(once=kept or n_samples, generation=population * each + kept, population=population)

    def total(self, candidates: int) -> int:
        """Return the cost of `candidates` candidates in whole generations."""
        return self.once + candidates // self.population * self.generation

    def candidates(self, samples: int) -> int:
        """Return how many candidates, in whole generations, `samples` samples pay for."""
        return (samples - self.once) // self.generation * self.population


def _n_blocks(ref: ModelRef) -> int:
    config = read_config(ref)
    count = count_blocks(config) if config is not None else None
    if count is None:
        raise ConfigError(f"{ref.text}: its config does not say how many blocks it has.")
    return count


def paid(config: Config, samples: int) -> Config:
    """Return the search with a budget of at most `samples` scored samples."""
    budget = config.budget.model_copy(update={"candidates": Cost.of(config).candidates(samples)})
    return config.model_copy(update={"budget": budget})


def run_kind(kind: str, hybrid: HybridConfig, *, pipeline: Pipeline, seed: int, out: Path) -> RunResult:
    """Run a search of this kind with the cost of the config's first stage, or read its result."""
    ps, path = (stage.model_copy(update={"seed": seed}) for stage in (hybrid.ps, hybrid.path))
    samples = Cost.of(ps).total(ps.budget.candidates)
    if kind == "ps":
        return evolve(ps, out=out, resume=True)
    if kind == "dfs":
        return evolve(paid(alone(path, pipeline.sources), samples), out=out, resume=True)
    first = paid(ps, samples // 2)
    left = samples - Cost.of(first).total(first.budget.candidates)
    return run_search(HybridConfig(ps=first, path=paid(path, left)), out=out, resume=True)


def score(result: RunResult, *, task: str, limit: int | None) -> Run:
    """Score a search's winner on the report split, and count the samples that the search scored."""
    loaded = load_recipe_model(result.recipe, device="cpu")
    held_out = (
        open_task(TaskChoice(name=task, limit=limit), Split.REPORT)
        .prepare(loaded)
        .answer(BuiltinEngine(loaded=loaded))
        .score
    )
    outcomes = [
        entry.outcome
        for journal in sorted(result.folder.rglob(JOURNAL_FILE))
        for entry in read_journal(journal).entries
    ]
    # A cached score took no time and is not counted again.
    fresh = [found for found in outcomes if isinstance(found, Evaluation) and found.seconds]
    hops = None if result.recipe.path is None else len(result.recipe.path)
    return Run(held_out=held_out, scored=sum(part.n for found in fresh for part in found.scores.values()), hops=hops)


def by_sample(runs: Sequence[Run]) -> list[float]:
    """Return the mean over the runs of each report sample's score."""
    return [sum(values) / len(runs) for values in zip(*(run.held_out.per_sample for run in runs), strict=True)]


def row(pipeline: str, kind: str, runs: Sequence[Run], reference: Sequence[Run]) -> str:
    """Return a line of the table; the difference is to the `reference` runs, if any."""
    means = by_sample(runs)
    low, high = mean_interval(means)
    difference = "-"
    if reference and reference is not runs:
        ends = difference_interval(means, by_sample(reference))
        gained = sum(means) / len(means) - sum(by_sample(reference)) / len(means)
        difference = f"{100 * gained:+.1f} ({100 * ends.low:+.1f} to {100 * ends.high:+.1f})"
    japanese = sum(run.held_out.japanese for run in runs) / len(runs)
    seeds = ", ".join(f"{100 * run.held_out.score:.1f}" for run in runs)
    hops = ", ".join("-" if run.hops is None else str(run.hops) for run in runs)
    scored = ", ".join(str(run.scored) for run in runs)
    return (
        f"| {pipeline} | {kind} | {100 * sum(means) / len(means):.1f} | {100 * low:.1f} - {100 * high:.1f} | {seeds} | "
        f"{difference} | {100 * japanese:.0f} % | {hops} | {scored} |"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--report", type=int, default=None, help="report samples (default: all)")
    parser.add_argument("--out", type=Path, default=None, help="folder for the runs; existing runs are reused")
    parser.add_argument("--quick", action="store_true", help="use very few samples, to see that it runs")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    print("| pipeline | search | held out | 95 % | seeds | minus ps | Japanese | hops | samples scored |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.pipelines:
            pipeline = PIPELINES[name]
            hybrid = load_hybrid(pipeline, quick=arguments.quick)
            found: dict[str, list[Run]] = {}
            for kind in (kind for kind in KINDS if kind in arguments.kinds):
                runs = found.setdefault(kind, [])
                for seed in range(arguments.seeds):
                    began = time.monotonic()
                    out = folder / f"{name}-{kind}-{seed}"
                    result = run_kind(kind, hybrid, pipeline=pipeline, seed=seed, out=out)
                    runs.append(score(result, task=hybrid.ps.tasks[0].name, limit=arguments.report))
                    told = f"{100 * runs[-1].held_out.score:.1f}, {runs[-1].scored} samples"
                    print(f"{name} {kind} {seed}: {told}, {time.monotonic() - began:.0f} s", file=sys.stderr)
                print(row(name, kind, runs, found.get("ps", [])), flush=True)


if __name__ == "__main__":
    main()
