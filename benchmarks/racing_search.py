"""How few generated tokens does a search need for the same model? Full evaluation against racing and subsets.

    python benchmarks/racing_search.py [--seeds 5] [--first-seed 10] [--out runs/racing]

Compares searches with the same number of candidates: on all search samples; with racing; on a fixed random subset of
the same cost; and on a subset chosen by IRT (item_response.py), with the samples' parameters from its own first
generation or, at no cost, from the full search of another seed. All but the first score their best three candidates
and the mean again on all samples, and their tokens include this. The full search is also shown stopped at the end of
the generation in which it has spent at least as much as racing. Each winner is the best of its best candidates and the
mean. Prints the table of benchmarks/LOG.md: the winners on the report split, scores x 100, means over the seeds; the
difference to full evaluation over the report samples (paired bootstrap). Searches that are in --out are not repeated.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import item_response as irt
import numpy as np

from evovlm.evaluation.answering import open_task
from evovlm.evaluation.answers import PreparedTask, TaskChoice
from evovlm.evaluation.comparison import compare
from evovlm.evaluation.evaluator import Evaluator
from evovlm.evaluation.intervals import mean_interval
from evovlm.files import write_file
from evovlm.recipes.candidate import Evaluation, Genome, Outcome, TaskScore
from evovlm.recipes.kinds import Recipe
from evovlm.runs.config.kinds import load_config
from evovlm.runs.config.parameters import EvolveConfig
from evovlm.runs.config.sections import RacingSection
from evovlm.runs.folder.entries import Entry
from evovlm.runs.folder.journal import Journal, best_distinct, read_journal
from evovlm.runs.folder.layout import JOURNAL_FILE
from evovlm.runs.searching.evolve import evolve, open_evaluator
from evovlm.search.loop import NextGeneration, Proposal, search
from evovlm.tasks.task import Split

CONFIGS = Path(__file__).parents[1] / "configs"
RESCORED = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """A winner: its genome, and the tokens spent to find it."""

    genome: Genome
    tokens: int


@dataclass(kw_only=True, eq=False)
class Bench:
    """What all searches share; models and tasks are opened once."""

    config: EvolveConfig
    evaluator: Evaluator
    task: PreparedTask
    out: Path

    def __post_init__(self) -> None:
        self.space = self.config.space_for(self.evaluator.resident.blocks)
        self.samples = self.evaluator.tasks[0].n_samples
        self.known: dict[str, TaskScore] = {}

    def journal(self, name: str, seed: int, racing: RacingSection | None) -> Journal:
        """Run a search, or read its journal."""
        config = self.config.model_copy(update={"seed": seed, "racing": racing, "rescore": RESCORED})
        folder = self.out / f"{name}-{seed}"
        evolve(config, out=folder, resume=True, evaluator=self.evaluator)
        return read_journal(folder / JOURNAL_FILE)

    def held_out(self, found: Found) -> TaskScore:
        """Score a winner on the report split."""
        recipe = self.space.decode(found.genome)
        if recipe.recipe_id not in self.known:
            self.evaluator.resident.merge(recipe)
            self.known[recipe.recipe_id] = self.task.answer(self.evaluator.resident.engine).score
        return self.known[recipe.recipe_id]


def whole(journal: Journal) -> Found:
    """Return a search's winner: the best of those it scored on all samples at its end."""
    last = [entry for entry in (*journal.rescored, journal.mean) if entry is not None]
    return Found(genome=max(last, key=fitness).genome, tokens=journal.tokens)


def stopped(journal: Journal, *, tokens: int) -> Found:
    """Return the best candidate of the generations that a full search needs to spend `tokens`, or a little more."""
    taken: list[Entry] = []
    for generation in range(journal.candidates[-1].generation + 1):
        taken += [entry for entry in journal.candidates if entry.generation == generation]
        if spent(taken) >= tokens:
            break
    return Found(genome=best_distinct(taken, 1)[0].genome, tokens=spent(taken))


def fitness(entry: Entry) -> float:
    return entry.outcome.fitness if isinstance(entry.outcome, Evaluation) else float("-inf")


def spent(entries: Sequence[Entry]) -> int:
    return sum(entry.outcome.tokens for entry in entries if isinstance(entry.outcome, Evaluation))


def samples_seen(journal: Journal) -> float:
    """Return how many samples a candidate saw on average."""
    outcomes = [entry.outcome for entry in journal.candidates]
    return float(
        np.mean([score.n for each in outcomes if isinstance(each, Evaluation) for score in each.scores.values()])
    )


def by_item_response(bench: Bench, *, seed: int, count: int, calibration: Journal | None, file: Path) -> Found:
    """Search on `count` anchors, or read the result.

    The samples' parameters are fitted to a journal of other candidates, or to the first generation in full.
    """
    if not file.is_file():
        found = _search_by_item_response(bench, seed=seed, count=count, calibration=calibration)
        write_file(file, json.dumps({"genome": found.genome.tolist(), "tokens": found.tokens}) + "\n")
    content = json.loads(file.read_text(encoding="utf-8"))
    return Found(genome=np.array(content["genome"]), tokens=content["tokens"])


def _search_by_item_response(bench: Bench, *, seed: int, count: int, calibration: Journal | None) -> Found:
    draws = np.random.default_rng(seed)
    optimizer = bench.config.model_copy(update={"seed": seed}).new_optimizer(bench.space)
    tokens, ranked = 0, []
    fitted: tuple[irt.Items, irt.Anchors, Evaluator] | None = None

    def scored(evaluator: Evaluator, recipe: Recipe) -> Evaluation:
        nonlocal tokens
        found = evaluator.evaluate(recipe)
        if not isinstance(found, Evaluation):
            raise SystemExit(f"a candidate failed: {found.reason}")
        tokens += found.tokens
        return found

    def calibrated(table: np.ndarray) -> tuple[irt.Items, irt.Anchors, Evaluator]:
        items = irt.fit(table)
        chosen = irt.anchors(items, count=count, draws=draws)
        return items, chosen, bench.evaluator.part([chosen.rows])

    if calibration is not None:
        fitted = calibrated(np.array([table_row(entry.outcome) for entry in calibration.candidates]))

    def evaluate(proposals: tuple[Proposal, ...]) -> list[Outcome]:
        nonlocal fitted
        recipes = [bench.space.decode(proposal.genome) for proposal in proposals]
        evaluator = bench.evaluator if fitted is None else fitted[2]
        outcomes = [scored(evaluator, recipe) for recipe in recipes]
        table = np.array([table_row(outcome) for outcome in outcomes])
        if fitted is None:
            fitted = calibrated(table)
        else:
            told = irt.estimate(fitted[0], fitted[1], table)
            outcomes = [replace(each, fitness=float(value)) for each, value in zip(outcomes, told, strict=True)]
        ranked.extend((each.fitness, proposal.genome) for each, proposal in zip(outcomes, proposals, strict=True))
        return list(outcomes)

    def continues(upcoming: NextGeneration) -> bool:
        return upcoming.before + upcoming.candidates <= bench.config.budget.candidates

    search(optimizer, continues=continues, evaluate=evaluate, on_generation=lambda _: None)
    best = [genome for _, genome in sorted(ranked, key=lambda row: -row[0])[:RESCORED]]
    again = [
        (scored(bench.evaluator, bench.space.decode(genome)).fitness, genome) for genome in [*best, optimizer.mean]
    ]
    return Found(genome=max(again, key=lambda row: row[0])[1], tokens=tokens)


def table_row(outcome: Outcome) -> tuple[float, ...]:
    if not isinstance(outcome, Evaluation):
        raise SystemExit(f"a candidate failed: {outcome.reason}")
    return next(iter(outcome.scores.values())).per_sample


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table: the winners and their held-out scores, by seed."""

    name: str
    found: tuple[Found, ...]
    scores: tuple[TaskScore, ...]


def line(bench: Bench, name: str, seeds: Sequence[int], find: Callable[[int], Found]) -> Line:
    found = []
    for seed in seeds:
        found.append(find(seed))
        score = bench.held_out(found[-1]).score
        print(f"{name} {seed}: {100 * score:.1f}, {found[-1].tokens} tokens", file=sys.stderr, flush=True)
    return Line(name=name, found=tuple(found), scores=tuple(bench.held_out(each) for each in found))


def by_sample(each: Line) -> list[float]:
    """Return the mean over the seeds of each report sample's score."""
    return [sum(row) / len(row) for row in zip(*(score.per_sample for score in each.scores), strict=True)]


def show(each: Line, *, full: Line) -> None:
    """Print a row; the intervals of the means over the seeds are over the report samples."""
    tokens = sum(found.tokens for found in each.found) / len(each.found)
    ratio = tokens / (sum(found.tokens for found in full.found) / len(full.found))
    own, others = by_sample(each), by_sample(full)
    low, high = mean_interval(own)
    against = compare(own, others, binary=False)
    difference = f"{100 * against.difference:+.1f} ({100 * against.low:+.1f} to {100 * against.high:+.1f})"
    per_seed = ", ".join(f"{100 * score.score:.1f}" for score in each.scores)
    cells = [
        each.name,
        f"{tokens:.0f}",
        f"{ratio:.3f}",
        f"{100 * sum(own) / len(own):.1f}",
        f"{100 * low:.1f} - {100 * high:.1f}",
        per_seed,
        difference,
        f"{against.p_value:.3f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=10, help="first seed; the rules were tuned on others")
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo-evollm.yaml", help="of one task")
    parser.add_argument(
        "--limits", type=float, nargs="+", default=[0.2, 0.125, 0.0625], help="shares of the samples to race on"
    )
    parser.add_argument("--first", type=int, default=10, help="samples of the first round")
    parser.add_argument("--report", type=int, default=None, help="report samples (default: all)")
    parser.add_argument("--out", type=Path, default=None, help="folder for the runs; existing runs are reused")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    config = load_config(arguments.config).resolved(relative_to=arguments.config.parent)
    evaluator = open_evaluator(config)
    task = open_task(TaskChoice(name=config.tasks[0].name, limit=arguments.report), Split.REPORT).prepare(
        evaluator.loaded
    )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    print(
        "| search | tokens | of full | held out | 95 % | seeds | against full | p |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        bench = Bench(config=config, evaluator=evaluator, task=task, out=out)
        full = {seed: bench.journal("full", seed, None) for seed in seeds}
        all_samples = line(bench, "all samples", seeds, lambda seed: whole(full[seed]))
        show(all_samples, full=all_samples)
        for limit in arguments.limits:
            compare_at(bench, limit, seeds=seeds, full=full, all_samples=all_samples, first=arguments.first)


def compare_at(
    bench: Bench, limit: float, *, seeds: Sequence[int], full: dict[int, Journal], all_samples: Line, first: int
) -> None:
    """Print the rows of one share of the samples."""

    def row(name: str, find: Callable[[int], Found]) -> Line:
        found = line(bench, name, seeds, find)
        show(found, full=all_samples)
        return found

    label = f"{limit:g}"
    rules = {
        "race": RacingSection(first=first, limit=limit, order="informative"),
        "shuffled": RacingSection(first=first, limit=limit, order="shuffled"),
        "unsmoothed": RacingSection(first=first, limit=limit, order="informative", smooth=False),
        "plain": RacingSection(first=first, limit=limit, order="shuffled", smooth=False),
    }
    races = {seed: bench.journal(f"race-{label}", seed, rules["race"]) for seed in seeds}
    row(f"racing, {label}", lambda seed: whole(races[seed]))
    tokens = {seed: races[seed].tokens for seed in seeds}
    row(f"all samples, stopped at the tokens of racing, {label}", lambda seed: stopped(full[seed], tokens=tokens[seed]))
    count = round(float(np.mean([samples_seen(race) for race in races.values()])))
    subset = RacingSection(first=count, limit=count / bench.samples, order="fixed", smooth=False)
    row(f"{count} random samples", lambda seed: whole(bench.journal(f"random-{label}", seed, subset)))
    for name in ("shuffled", "unsmoothed", "plain"):
        row(
            f"racing, {label}, {name}",
            lambda seed, name=name: whole(bench.journal(f"{name}-{label}", seed, rules[name])),
        )
    other = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    row(
        f"{count} IRT anchors, calibrated for nothing",
        lambda seed: by_item_response(
            bench,
            seed=seed,
            count=count,
            calibration=full[other[seed]],
            file=bench.out / f"irt-free-{label}-{seed}.json",
        ),
    )
    # The first generation costs all samples; the rest of the cost is left for the others.
    population = len([entry for entry in full[seeds[0]].candidates if entry.generation == 0])
    candidates = len(full[seeds[0]].candidates)
    left = round((count * candidates - bench.samples * population) / (candidates - population))
    if left > 1:
        row(
            f"{left} IRT anchors after a whole generation",
            lambda seed: by_item_response(
                bench, seed=seed, count=left, calibration=None, file=bench.out / f"irt-{label}-{seed}.json"
            ),
        )


if __name__ == "__main__":
    main()
