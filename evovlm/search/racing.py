"""Racing: a generation is ranked with as few samples as that takes. It knows tables of scores, and no model.

A generation's candidates are scored on one block of samples after another, the same for all. After each block those
stop whose place no longer matters: those confidently out of the better half (a selection race, Heidrich-Meisner and
Igel 2009; races go back to Maron and Moore 1994), and those whose order to everybody else is settled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_WINS, _TIES = 2.0, 2.0

_SWEEPS = 60
_CANDIDATE_RIDGE = 8.0
_SAMPLE_RIDGE = 1.0
_LEAST_VARIANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What candidates scored: `scores` of shape (candidates, samples), NaN where one did not see a sample.

    `tasks` of shape (samples,) says whose task's each sample is, counted from 0. `slopes` of shape (tasks,) says by how
    much the fitness grows with each task's score, where the fitness is not their sum: its linear part.
    """

    scores: Floats
    tasks: npt.NDArray[np.int64]
    slopes: Floats


def confidently_ahead(table: Table, *, level: float) -> Flags:
    """Return which candidate is better than which, shape (candidates, candidates), each wrong by about `level`.

    The lower end of a one-sided Student interval of their paired difference over the samples that both saw is above 0.
    To these one win of each is added and two ties, as Agresti and Min (2005) do by half of that: a plain interval of a
    few 0s and 1s is far too short, and where all differences are equal it has no length at all. Of shares the worst
    case is then within a fourth of the level, from 10 samples on.
    """
    seen = ~np.isnan(table.scores)
    values = np.where(seen, table.scores, 0.0)
    difference = np.zeros((len(values), len(values)))
    variance, shared = np.zeros_like(difference), np.zeros_like(difference)
    for task, slope in enumerate(table.slopes):
        own = table.tasks == task
        scores, here = values[:, own], seen[:, own].astype(np.float64)
        both = here @ here.T
        shared += both
        mean = (scores @ here.T - here @ scores.T) / (both + _WINS + _TIES)
        squares = scores**2 @ here.T + here @ (scores**2).T - 2.0 * (scores @ scores.T) + _WINS
        difference += slope * mean
        variance += slope**2 * (squares / (both + _WINS + _TIES) - mean**2) / (both + _WINS + _TIES)
    bound: Flags = difference > _student_quantile(1.0 - level, shared - 1.0) * np.sqrt(np.maximum(variance, 0.0))
    return bound


def _student_quantile(share: float, freedom: Floats) -> Floats:
    """Return Student's quantile for each number of degrees of freedom (Abramowitz and Stegun 1964, 26.7.5)."""
    z, free = NormalDist().inv_cdf(share), np.maximum(freedom, 1.0)
    found: Floats = z + (z**3 + z) / (4.0 * free) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * free**2)
    return found


def still_racing(ahead: Flags, racing: Flags, *, better: int) -> Flags:
    """Return which of those `racing`, shape (candidates,), go on: those whose place may still change a selection.

    `ahead`, shape (candidates, candidates), says who is confidently ahead of whom. One stops that is confidently behind
    `better` others, so many as a selection takes, and one whose order to all who are not behind is settled.
    """
    out = ahead.sum(axis=0) >= better
    rivals = ~out & ~np.eye(len(out), dtype=np.bool_)
    unsettled = ((~ahead & ~ahead.T) & rivals).any(axis=1)
    going_on: Flags = racing & ~out & unsettled
    return going_on


@dataclass(frozen=True, slots=True, kw_only=True)
class ToLeaders:
    """Who saw the most samples, and how far each is above their mean, by the slopes; both of shape (candidates,)."""

    leads: Flags
    differences: Floats


def to_the_leaders(table: Table) -> ToLeaders:
    """Return the paired differences to those that saw the most samples, each on the samples that it saw itself.

    Those who stopped had fewer and perhaps easier samples, on which their own means would not be comparable.
    """
    seen = ~np.isnan(table.scores)
    values = np.where(seen, table.scores, 0.0)
    leads = seen.sum(axis=1) == seen.sum(axis=1).max()
    leaders = values[leads].mean(axis=0)
    differences = np.zeros(len(values))
    for task, slope in enumerate(table.slopes):
        own = table.tasks == task
        count = np.maximum(1, seen[:, own].sum(axis=1))
        differences += slope * ((values - leaders)[:, own] * seen[:, own]).sum(axis=1) / count
    return ToLeaders(leads=leads, differences=differences)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """How much better than their mean candidates are, whatever samples they saw, and the variance of the error of that;
    both of shape (candidates,).
    """

    values: Floats
    noise: Floats


def abilities(scores: Floats, generations: npt.NDArray[np.int64]) -> Abilities:
    """Return what is left of the scores of candidates that saw different samples when these samples' ease is taken out.

    `scores` has shape (candidates, samples), NaN where one did not see a sample, `generations` (candidates,). A score
    is fitted as the sum of a mean, the generation's and the candidate's ability and the sample's ease, by least squares
    with ridges, which stand for so many samples (or candidates) more that show nothing.
    """
    seen = ~np.isnan(scores)
    values = np.where(seen, scores, 0.0)
    per_candidate, per_sample = seen.sum(axis=1), seen.sum(axis=0)
    member = np.eye(int(generations.max(initial=0)) + 1)[generations]
    mean = values.sum() / max(1, per_candidate.sum())
    own, shared, left = np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values))
    ease = np.zeros(values.shape[1])
    for _ in range(_SWEEPS):
        left = (values - (mean + ease) * seen).sum(axis=1)
        counted = np.maximum(1, member.T @ per_candidate)
        shared = member @ ((member.T @ (left - own * per_candidate)) / counted)
        own = (left - shared * per_candidate) / (per_candidate + _CANDIDATE_RIDGE)
        ease = (values - (mean + shared + own)[:, None] * seen).sum(axis=0) / (per_sample + _SAMPLE_RIDGE)
    residuals = (values - (mean + ease + (shared + own)[:, None])) * seen
    variance = max(float((residuals**2).sum() / max(1, seen.sum())), _LEAST_VARIANCE)
    return Abilities(values=left / np.maximum(1, per_candidate), noise=variance / np.maximum(1, per_candidate))


def looks(*, first: int, growth: float, limit: float, sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return how many samples of each task, of which there are `sizes`, have been seen after each block.

    After the first, `first` of all tasks together, in proportion; each time by `growth` more, up to the share `limit`.
    Every block has a sample of each task at least.
    """
    total = sum(sizes)
    last = max(min(first, total), limit * total)
    found: list[tuple[int, ...]] = []
    reached = float(min(first, total))
    while True:
        reached = min(reached, last)
        counts = tuple(max(1, round(reached / total * size)) for size in sizes)
        if not found or all(now > before for now, before in zip(counts, found[-1], strict=True)):
            found.append(counts)
        elif counts != found[-1] and reached >= last:
            found[-1] = counts
        if reached >= last:
            return tuple(found)
        reached *= growth
