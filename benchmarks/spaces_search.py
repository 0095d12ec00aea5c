"""Which search space finds the better merge of the embedded models, and which one sooner, at the same budget?

    python benchmarks/spaces_search.py [--seeds 5] [--candidates 105] [--limit 160] [--knots 3 5] [--out runs/spaces]

configs/demo-evollm.yaml in the spaces model, layer and interpolated, with each seed. All may evaluate the same number
of candidates, each on the same samples. Prints three tables for benchmarks/LOG.md: the winners (best candidate, and the
distribution's mean) on the report split; the best fitness so far on the search split, after a quarter, half, three
quarters and all of the budget's samples; and the share of the budget after which each space was as good as the layer
space at its end, with the same seed. Scores x 100, means over the seeds. Runs are kept in --out; runs that are already
there are not repeated.
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
from evovlm.recipes.candidate import Evaluation, Genome, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.folder.journal import Journal, best_distinct, read_journal
from evovlm.runs.folder.layout import JOURNAL_FILE
from evovlm.runs.searching.evolve import evolve, open_evaluator
from evovlm.tasks.task import Split

CONFIG = Path(__file__).parents[1] / "configs" / "demo-evollm.yaml"
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
LAYER = "layer"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search: the held-out scores of its two winners, and the fitness of each candidate in order."""

    best: TaskScore
    mean: TaskScore
    fitnesses: list[float]
    genes: int
    population: int

    def best_after(self, candidates: float) -> float:
        """Return the best fitness among the first `candidates` candidates."""
        return max(self.fitnesses[: int(candidates)], default=0.0)

    def reaches(self, fitness: float) -> int | None:
        """Return how many candidates it took to reach that fitness, or None if it never did."""
        return next((number for number, own in enumerate(self.fitnesses, start=1) if own >= fitness), None)


def run_search(config: EvolveConfig, *, out: Path, evaluator: Evaluator, task: PreparedTask) -> Run:
    """Run one search, or read its result, and score its winners."""
    evolve(config, out=out, resume=True, evaluator=evaluator)
    journal = read_journal(out / JOURNAL_FILE)
    fitnesses = [
        entry.outcome.fitness if isinstance(entry.outcome, Evaluation) else 0.0 for entry in journal.candidates
    ]
    space = config.space_for(journal.blocks)
    winners = (best_distinct(journal.candidates, 1)[0].genome, optimizer_mean(journal))
    best, mean = (score(evaluator, task, space.decode(genome)) for genome in winners)
    genes = len(journal.candidates[0].genome)
    return Run(best=best, mean=mean, fitnesses=fitnesses, genes=genes, population=config.population(dim=genes))


def optimizer_mean(journal: Journal) -> Genome:
    """Return the mean of a finished run."""
    if journal.mean is None:
        raise SystemExit(f"{journal.path}: the run is not finished")
    return journal.mean.genome


def score(evaluator: Evaluator, task: PreparedTask, recipe: Recipe) -> TaskScore:
    """Score a recipe on the report split."""
    evaluator.resident.merge(recipe)
    return task.answer(evaluator.resident.engine).score


def held_out_row(name: str, winner: str, scores: list[TaskScore], *, genes: str) -> str:
    """Return a line of the first table; the interval of the mean over seeds is over the report samples."""
    by_sample = [sum(values) / len(scores) for values in zip(*(each.per_sample for each in scores), strict=True)]
    low, high = mean_interval(by_sample)
    mean = 100 * sum(each.score for each in scores) / len(scores)
    seeds = ", ".join(f"{100 * each.score:.1f}" for each in scores)
    japanese = 100 * sum(each.japanese for each in scores) / len(scores)
    interval = f"{100 * low:.1f} - {100 * high:.1f}"
    return f"| {name} | {genes} | {winner} | {mean:.1f} | {interval} | {seeds} | {japanese:.0f} % |"


def course_row(name: str, runs: list[Run], *, candidates: int) -> str:
    """Return a line of the second table."""
    values = [sum(run.best_after(fraction * candidates) for run in runs) / len(runs) for fraction in FRACTIONS]
    return f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |"


def sooner_row(name: str, runs: list[Run], layer: list[Run], *, candidates: int) -> str:
    """Return a line of the third table: the share of the budget, by seed."""
    found = [run.reaches(own.best_after(candidates)) for run, own in zip(runs, layer, strict=True)]
    shares = ["never" if number is None else f"{100 * number / candidates:.0f} %" for number in found]
    return f"| {name} | {', '.join(shares)} |"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=105)
    parser.add_argument("--limit", type=int, default=160, help="search samples")
    parser.add_argument("--report", type=int, default=None, help="report samples (default: all)")
    parser.add_argument("--knots", type=int, nargs="+", default=[3, 5], help="knots of the interpolated spaces")
    parser.add_argument("--out", type=Path, default=None, help="folder for the runs; existing runs are reused")
    return parser.parse_args()


def variants(config: EvolveConfig, knots: list[int]) -> dict[str, EvolveConfig]:
    """Return the search in each of the spaces."""
    sections = {kind: config.space.model_copy(update={"kind": kind}) for kind in ("model", LAYER)}
    for number in knots:
        name = f"interpolated, {number} knots"
        sections[name] = config.space.model_copy(update={"kind": "interpolated", "knots": number})
    return {name: config.model_copy(update={"space": section}) for name, section in sections.items()}


def main() -> None:
    arguments = parsed()
    loaded = load_config(CONFIG)
    config = loaded.resolved(relative_to=CONFIG.parent).model_copy(
        update={
            "budget": loaded.budget.model_copy(update={"candidates": arguments.candidates}),
            "tasks": [task.model_copy(update={"limit": arguments.limit}) for task in loaded.tasks],
        }
    )
    evaluator = open_evaluator(config)
    task = open_task(TaskChoice(name=config.tasks[0].name, limit=arguments.report), Split.REPORT).prepare(
        evaluator.loaded
    )
    found: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        # Seed by seed, so that an interrupted run of this program still compares equal seeds.
        for seed in range(arguments.seeds):
            for name, variant in variants(config, arguments.knots).items():
                began = time.monotonic()
                seeded = variant.model_copy(update={"seed": seed})
                out = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
                run = run_search(seeded, out=out, evaluator=evaluator, task=task)
                found.setdefault(name, []).append(run)
                print(
                    f"{name} {seed}: search {100 * max(run.fitnesses):.1f}, held out best {100 * run.best.score:.1f}, "
                    f"mean {100 * run.mean.score:.1f}, {time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
    print_tables(found, arguments)


def print_tables(found: dict[str, list[Run]], arguments: argparse.Namespace) -> None:
    print("| space | genes, population | winner | held out | 95 % | seeds | Japanese |\n|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        genes = f"{runs[0].genes}, {runs[0].population}"
        print(held_out_row(name, "best", [run.best for run in runs], genes=genes))
        print(held_out_row(name, "mean", [run.mean for run in runs], genes=genes))
    samples = [f"{fraction * arguments.candidates * arguments.limit:.0f}" for fraction in FRACTIONS]
    print(f"\n| best so far after scored samples | {' | '.join(samples)} |\n|---|{'---|' * len(FRACTIONS)}")
    for name, runs in found.items():
        print(course_row(name, runs, candidates=arguments.candidates))
    print("\n| space | share of the budget until as good as layer's best, by seed |\n|---|---|")
    for name, runs in found.items():
        print(sooner_row(name, runs, found[LAYER], candidates=arguments.candidates))


if __name__ == "__main__":
    main()
