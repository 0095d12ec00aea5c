"""Compare the optimizers on problems with a known solution, with equal numbers of evaluations.

    python benchmarks/optimizer_problems.py [--seeds 10]

Prints a Markdown table: for each problem and optimizer, the distance of the best genome from the optimum (`left`, 0 is
the optimum), as the median over the seeds with quartiles; for two goals, the missing hypervolume. No model is involved:
the table shows what an optimizer is good at, not how good a merge becomes.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evovlm.recipes.candidate import Genome, Levels
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.optimizer import Feedback, Start
from evovlm.seeding import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem: `tell` returns the feedback on a genome, `left` how far all feedback so far is from the optimum."""

    name: str
    levels: Levels
    evaluations: int
    kinds: tuple[str, ...]
    tell: Callable[[Genome], Feedback]
    left: Callable[[Sequence[Feedback]], float]


def part(genes: Genome, levels: int) -> npt.NDArray[np.int64]:
    """Return which of `levels` equal parts of [0, 1] each gene lies in."""
    return np.clip(np.ceil(genes * levels).astype(np.int64) - 1, 0, levels - 1)


def below_the_best(feedback: Sequence[Feedback]) -> float:
    """Return how far the best fitness is below 0, which is the optimum of every problem here."""
    return -max(each.fitness for each in feedback)


def one_goal(fitness: Callable[[Genome], float]) -> Callable[[Genome], Feedback]:
    """Return feedback with a fitness alone."""
    return lambda genome: Feedback(fitness=float(fitness(genome)))


def sphere(genome: Genome) -> float:
    """Return minus the squared distance from 0.7."""
    return -float(np.sum((genome - 0.7) ** 2))


def ellipsoid(dim: int) -> Callable[[Genome], float]:
    """Return an ellipsoid of condition 10^4 with randomly rotated axes."""
    turned = np.linalg.qr(generator("ellipsoid", dim).standard_normal((dim, dim)))[0]
    scales = 10.0 ** np.linspace(0, 2, dim)
    return lambda genome: -float(np.sum((scales * (turned @ (genome - 0.6))) ** 2))


def scaled(genome: Genome) -> float:
    """Return an ellipsoid of condition 10^4 along the genes themselves."""
    return -float(np.sum((10.0 ** np.linspace(0, 2, len(genome)) * (genome - 0.6)) ** 2))


def rastrigin(genome: Genome) -> float:
    """Return a bowl with a local optimum every tenth."""
    x = (genome - 0.6) * 10.0
    return -float(np.sum(x**2 + 10.0 * (1.0 - np.cos(2.0 * math.pi * x))))


def leading_ones(genome: Genome) -> float:
    """Return minus the number of binary genes after the first 0, minus the distance of the two numbers from 0.6."""
    on = genome[:-2] > 0.5
    leading = len(on) if on.all() else int(np.argmin(on))
    return leading - len(on) - float(np.sum((genome[-2:] - 0.6) ** 2))


def categorical(genome: Genome) -> float:
    """Return minus the number of genes at a wrong level, minus the distance of the two numbers from 0.6."""
    wanted = (2 * np.arange(len(genome) - 2)) % 5
    return -float(np.sum(part(genome[:-2], 5) != wanted)) - float(np.sum((genome[-2:] - 0.6) ** 2))


def specialists(genome: Genome) -> Feedback:
    """Return feedback on 60 samples; each is right if 4 neighbouring genes are close enough to its own corner."""
    corners = generator("specialists").integers(0, 2, (6, 4)) * 0.6 + 0.2
    off = np.abs(genome.reshape(6, 4) - corners).max(axis=1)
    right = off[:, None] < np.linspace(0.04, 0.4, 10)
    per_sample = {("t", sample): float(each) for sample, each in enumerate(right.ravel())}
    return Feedback(fitness=float(right.mean()) - 1.0, per_sample=per_sample)


def two_goals(genome: Genome) -> Feedback:
    """Return feedback of ZDT1 as a maximisation: the goals conflict in the first gene, and need the others at 0."""
    first = float(genome[0])
    rest = 1.0 + 9.0 * float(np.mean(genome[1:]))
    goals = (1.0 - first, 1.0 - rest * (1.0 - math.sqrt(first / rest)))
    return Feedback(fitness=sum(goals) / 2, goals=goals)


def missing_volume(feedback: Sequence[Feedback]) -> float:
    """Return the area between the front of `two_goals` and the points, down to (0, 0)."""
    area, reached = 0.0, 0.0
    for first, second in sorted((each.goals for each in feedback), reverse=True):
        if first > 0 and second > reached:
            area += first * (second - reached)
            reached = second
    return 2.0 / 3.0 - area


CMA = ("cma", "cma_separable", "cma_ipop", "cma_bipop")
PLAIN = ("random", "random_nearby")


def problems() -> Sequence[Problem]:
    """Return all problems."""

    def numbers(
        name: str, fitness: Callable[[Genome], float], *, dim: int, evaluations: int, kinds: tuple[str, ...]
    ) -> Problem:
        return Problem(
            name=f"{name}, {dim} numbers",
            levels=np.zeros(dim, dtype=np.int64),
            evaluations=evaluations,
            kinds=kinds,
            tell=one_goal(fitness),
            left=below_the_best,
        )

    def mixed(name: str, fitness: Callable[[Genome], float], *, count: int, levels: int, evaluations: int) -> Problem:
        return Problem(
            name=f"{name}, {count} genes of {levels} levels and 2 numbers",
            levels=np.array([levels] * count + [0, 0]),
            evaluations=evaluations,
            kinds=("cma", "cma_margin", "catcma", "nsga2", "m2n2", *PLAIN),
            tell=one_goal(fitness),
            left=below_the_best,
        )

    every = (*CMA, "nsga2", "m2n2", *PLAIN)
    return [
        numbers("sphere", sphere, dim=10, evaluations=500, kinds=every),
        numbers("turned ellipsoid", ellipsoid(10), dim=10, evaluations=1500, kinds=every),
        numbers("ellipsoid along the genes", scaled, dim=100, evaluations=2000, kinds=every),
        numbers("Rastrigin", rastrigin, dim=3, evaluations=3000, kinds=every),
        mixed("leading ones", leading_ones, count=16, levels=2, evaluations=1500),
        mixed("categories", categorical, count=10, levels=5, evaluations=1500),
        Problem(
            name="60 samples, each of 4 of 24 numbers",
            levels=np.zeros(24, dtype=np.int64),
            evaluations=1000,
            kinds=every,
            tell=specialists,
            left=below_the_best,
        ),
        Problem(
            name="two goals (ZDT1), 8 numbers: missing hypervolume",
            levels=np.zeros(8, dtype=np.int64),
            evaluations=1000,
            kinds=("nsga2", "m2n2", "cma", *PLAIN),
            tell=two_goals,
            left=missing_volume,
        ),
    ]


def searched(problem: Problem, kind: str, *, seed: int) -> float:
    """Return the remaining distance of a search that starts from a random point near the middle, by seed."""
    dim = len(problem.levels)
    start = generator("start", seed).uniform(0.3, 0.7, dim)
    # A front needs more genomes than a direction.
    population = 20 if kind == "nsga2" and problem.left is missing_volume else None
    optimizer = OPTIMIZERS[kind](Start(initial=start, seed=seed, population=population, levels=problem.levels))
    feedback: list[Feedback] = []
    while len(feedback) + optimizer.population <= problem.evaluations:
        genomes = optimizer.ask()
        found = [problem.tell(genome) for genome in genomes]
        optimizer.tell(genomes, found)
        feedback += found
    return problem.left(feedback)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    began = time.process_time()
    for problem in problems():
        print(f"\n**{problem.name}**, {problem.evaluations} evaluations\n")
        print("| optimizer | left, median | quartiles |")
        print("|---|---|---|")
        for kind in problem.kinds:
            lower, median, upper = np.percentile(
                [searched(problem, kind, seed=seed) for seed in range(seeds)], [25, 50, 75]
            )
            print(f"| {kind} | {median:.3g} | {lower:.3g} to {upper:.3g} |", flush=True)
    print(f"\n{seeds} seeds, {time.process_time() - began:.0f} s of one core.")


if __name__ == "__main__":
    main()
