"""CMA-ES that starts anew, at another place, when it has come to an end: IPOP and BIPOP."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar, NamedTuple

from evovlm.recipes.candidate import Genome
from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import Start, Told
from evovlm.seeding import derive_seed, generator


class _Strategy(CmaEs):
    """One start of it. It ends by pycma's own criteria: equal fitnesses, stagnation, too narrow a distribution.

    Too narrow is a millionth of the cube, below what the weights' bfloat16 can tell apart. Fitnesses that are equal in
    one or two generations, pycma's default, are nothing unusual where answers are counted: here it takes ten.
    """

    _options: ClassVar[Mapping[str, object]] = {"tolx": 1e-6, "tolfun": 0, "tolflatfitness": 10}

    def has_ended(self) -> bool:
        """Say whether it has; to be asked once a generation, as pycma counts the flat ones here."""
        return bool(self._strategy.stop())


class _Plan(NamedTuple):
    """How to start: `large` is for BIPOP's two accounts, `at_most` the evaluations after which it ends anyhow."""

    population: int
    sigma: float
    large: bool
    at_most: float = math.inf


@dataclass(slots=True, kw_only=True, eq=False)
class _Run:
    """One start and its course: `level` is the median fitness of its last generation."""

    plan: _Plan
    strategy: _Strategy
    evaluations: int = 0
    level: float = -math.inf


class _Restarted:
    """What IPOP and BIPOP share.

    The first start is plain CMA-ES; the next begin at uniformly drawn points. The mean is that of the start whose last
    generation has the highest median fitness: a new start does not hide what an old one found before it does better.
    (The best single fitness would say more of luck, where fitness is measured on few samples.)
    """

    takes_goals: ClassVar[bool] = False
    keeps_population: ClassVar[bool] = False

    def __init__(self, start: Start) -> None:
        self._start = start
        self._draws = generator("cma_restarts", start.seed)
        self._first = _Plan(start.generation_size, start.sigma, large=False)
        self._ended: list[_Run] = []
        self._run = self._begun(self._first, start.initial, seed=start.seed)

    @property
    def population(self) -> int:
        """How many genomes the next generation has."""
        return self._run.strategy.population

    @property
    def mean(self) -> Genome:
        """The mean of the start that stands best."""
        # Of equals the latest, which may still move.
        return max([self._run, *reversed(self._ended)], key=lambda run: run.level).strategy.mean

    @property
    def figures(self) -> Mapping[str, float]:
        """Those of the start at work, and which it is: `restarts`, from 0."""
        return {**self._run.strategy.figures, "restarts": float(len(self._ended))}

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return self._run.strategy.ask()

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Update the distribution, and start anew where it ends. Raises ValueError for genomes not asked for."""
        run = self._run
        run.strategy.tell(genomes, told)
        run.evaluations += len(told)
        run.level = median(each.fitness for each in told)
        if run.strategy.has_ended() or run.evaluations >= run.plan.at_most:
            self._ended.append(run)
            number = len(self._ended)
            place = self._draws.random(self._start.dim)
            self._run = self._begun(self._next(), place, seed=derive_seed("cma_restart", self._start.seed, number))

    def _begun(self, plan: _Plan, place: Genome, *, seed: int) -> _Run:
        start = replace(self._start, initial=place, seed=seed, population=plan.population, sigma=plan.sigma)
        return _Run(plan=plan, strategy=_Strategy(start))

    def _spent(self, *, large: bool) -> int:
        return sum(run.evaluations for run in self._ended if run.plan.large is large)

    @property
    def _doubled(self) -> _Plan:
        n_large = sum(run.plan.large for run in self._ended)
        return self._first._replace(population=self._first.population * 2 ** (n_large + 1), large=True)

    @abstractmethod
    def _next(self) -> _Plan:
        """Return how to start anew."""


class CmaEsIpop(_Restarted):
    """CMA-ES with restarts, each with twice the population (IPOP; Auger and Hansen 2005)."""

    purpose: ClassVar[str] = "numbers with many local optima, and candidates by the thousand"

    def _next(self) -> _Plan:
        return self._doubled


class CmaEsBipop(_Restarted):
    """CMA-ES with restarts that take turns: twice the population, or a small one nearby (BIPOP; Hansen 2009).

    The kind that has cost less goes on. A small start has a population between the first one and half of the last large
    one, a step size between the first one and a hundredth of it, and half of what the large ones have cost in all.
    The first start counts as small.
    """

    purpose: ClassVar[str] = "as cma_ipop, where it is not known whether few large or many small starts do better"

    def _next(self) -> _Plan:
        large = self._spent(large=True)
        if self._spent(large=False) >= large:
            return self._doubled
        ratio = self._doubled.population / 2 / self._first.population
        size, step = self._draws.random(2).tolist()
        return _Plan(
            population=math.floor(self._first.population * max(ratio / 2, 1.0) ** (size**2)),
            sigma=self._first.sigma * 10 ** (-2 * step),
            large=False,
            at_most=large / 2,
        )
