"""CMA-ES that restarts from another point when it has converged: IPOP and BIPOP."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar, NamedTuple

from evovlm.recipes.candidate import Genome
from evovlm.search.cmaes import CmaEs
from evovlm.search.optimizer import Feedback, Start
from evovlm.seeding import derive_seed, generator


class _Strategy(CmaEs):
    """One start. It ends by pycma's criteria: equal fitnesses, stagnation, too narrow a distribution.

    Too narrow is a millionth of the cube, less than bfloat16 weights can represent. pycma also stops after one or two
    generations of equal fitnesses, which are common when correct answers are counted: here it takes ten.
    """

    _options: ClassVar[Mapping[str, object]] = {"tolx": 1e-6, "tolfun": 0, "tolflatfitness": 10}

    def has_ended(self) -> bool:
        """Return whether this start has ended. Call it once per generation: pycma counts the flat generations here."""
        return bool(self._strategy.stop())


class _Plan(NamedTuple):
    """How to start: `large` says to which of BIPOP's two regimes it belongs, `at_most` limits its evaluations."""

    population: int
    sigma: float
    large: bool
    at_most: float = math.inf


@dataclass(slots=True, kw_only=True, eq=False)
class _Attempt:
    """One start and its progress: `level` is the median fitness of its last generation."""

    plan: _Plan
    strategy: _Strategy
    evaluations: int = 0
    level: float = -math.inf


class _Restarted:
    """Base of IPOP and BIPOP.

    The first start is plain CMA-ES; later ones begin at uniformly drawn points. The mean is that of the start whose
    last generation has the highest median fitness: a new start does not hide an older result until it is better.
    (The best single fitness would depend more on luck, where fitness is measured on few samples.)
    """

    takes_goals: ClassVar[bool] = False
    keeps_population: ClassVar[bool] = False

    def __init__(self, start: Start) -> None:
        self._start = start
        self._draws = generator("cma_restarts", start.seed)
        self._first = _Plan(start.generation_size, start.sigma, large=False)
        self._ended: list[_Attempt] = []
        self._current = self._begun(self._first, start.initial, seed=start.seed)

    @property
    def population(self) -> int:
        """Number of genomes in the next generation."""
        return self._current.strategy.population

    @property
    def mean(self) -> Genome:
        """The mean of the start with the highest median fitness."""
        # Of equals, the latest, which may still move.
        return max([self._current, *reversed(self._ended)], key=lambda attempt: attempt.level).strategy.mean

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures of the current start, and its number `restarts`, from 0."""
        return {**self._current.strategy.figures, "restarts": float(len(self._ended))}

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        return self._current.strategy.ask()

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Update this start; restart if it ended. Raises ValueError unless they are the genomes of the last `ask`."""
        attempt = self._current
        attempt.strategy.tell(genomes, feedback)
        attempt.evaluations += len(feedback)
        attempt.level = median(each.fitness for each in feedback)
        if attempt.strategy.has_ended() or attempt.evaluations >= attempt.plan.at_most:
            self._ended.append(attempt)
            number = len(self._ended)
            point = self._draws.random(self._start.dim)
            self._current = self._begun(self._next(), point, seed=derive_seed("cma_restart", self._start.seed, number))

    def _begun(self, plan: _Plan, initial: Genome, *, seed: int) -> _Attempt:
        start = replace(self._start, initial=initial, seed=seed, population=plan.population, sigma=plan.sigma)
        return _Attempt(plan=plan, strategy=_Strategy(start))

    def _spent(self, *, large: bool) -> int:
        return sum(attempt.evaluations for attempt in self._ended if attempt.plan.large is large)

    @property
    def _doubled(self) -> _Plan:
        n_large = sum(attempt.plan.large for attempt in self._ended)
        return self._first._replace(population=self._first.population * 2 ** (n_large + 1), large=True)

    @abstractmethod
    def _next(self) -> _Plan:
        """Return how to start next."""


class CmaEsIpop(_Restarted):
    """CMA-ES with restarts, each with twice the population (IPOP; Auger and Hansen 2005)."""

    purpose: ClassVar[str] = "numbers with many local optima, and a budget of thousands of candidates"

    def _next(self) -> _Plan:
        return self._doubled


class CmaEsBipop(_Restarted):
    """CMA-ES with two kinds of restarts: twice the population, or a small population and step (BIPOP; Hansen 2009).

    The kind that has cost less comes next. A small start has a population between the first one and half of the last
    large one, a step size between the first one and a hundredth of it, and half of the evaluations that all large ones
    have used. The first start counts as small.
    """

    purpose: ClassVar[str] = "like cma_ipop, when it is unknown whether few large or many small starts are better"

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
