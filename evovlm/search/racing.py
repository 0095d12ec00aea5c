"""Racing: rank a generation on as few samples as possible. It handles tables of scores, and knows nothing about models.

The candidates of a generation are scored on one block of samples after another, the same for all. After each block,
candidates stop whose rank no longer matters: those confidently out of the better half (a selection race,
Heidrich-Meisner and Igel 2009; racing goes back to Maron and Moore 1994), and those whose order relative to all others
is settled.
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
    """Scores of candidates: `scores` has shape (candidates, samples), with NaN for samples that one did not see.

    `tasks`, shape (samples,), is the number of each sample's task, from 0. `slopes`, shape (tasks,), says how much the
    fitness grows with each task's score; if the fitness is not linear in the scores, its linear part.
    """

    scores: Floats
    tasks: npt.NDArray[np.int64]
    slopes: Floats


def confidently_ahead(table: Table, *, level: float) -> Flags:
    """Return where the row's candidate is better than the column's, shape (candidates, candidates).

    Each answer is wrong with a probability of about `level`. A candidate is better if the lower end of a one-sided
    Student interval of the paired difference, over the samples that both saw, is above 0. One win of each and two ties
    are added to these samples (Agresti and Min 2005 add half of that): a plain interval of a few 0s and 1s is far too
    short, and has length 0 when all differences are equal. For proportions, the worst case is then within a quarter of
    `level` from 10 samples on.
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
    """Return the quantile of Student's t for each number of degrees of freedom (Abramowitz and Stegun 1964, 26.7.5)."""
    z, free = NormalDist().inv_cdf(share), np.maximum(freedom, 1.0)
    found: Floats = z + (z**3 + z) / (4.0 * free) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * free**2)
    return found


def still_racing(ahead: Flags, racing: Flags, *, better: int) -> Flags:
    """Return which of the candidates `racing`, shape (candidates,), continue: those that may still change a selection.

    `ahead`, shape (candidates, candidates), is the result of `confidently_ahead`. A candidate stops when it is
    confidently behind `better` others, the number that a selection takes, or when its order relative to all candidates
    that are not out is settled.
    """
    out = ahead.sum(axis=0) >= better
    rivals = ~out & ~np.eye(len(out), dtype=np.bool_)
    unsettled = ((~ahead & ~ahead.T) & rivals).any(axis=1)
    continuing: Flags = racing & ~out & unsettled
    return continuing


@dataclass(frozen=True, slots=True, kw_only=True)
class ToLeaders:
    """Which candidates saw the most samples (`leads`), and the weighted difference of each candidate to their mean.

    Both have shape (candidates,).
    """

    leads: Flags
    differences: Floats


def to_the_leaders(table: Table) -> ToLeaders:
    """Return the paired differences to the candidates that saw the most samples, each on the samples that it saw.

    Candidates that stopped saw fewer and perhaps easier samples, so that their plain means are not comparable.
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
    """How much better than average candidates are, corrected for the samples that they saw, and its error variance.

    Both have shape (candidates,).
    """

    values: Floats
    noise: Floats


def abilities(scores: Floats, generations: npt.NDArray[np.int64]) -> Abilities:
    """Return the abilities of candidates that saw different samples, corrected for how easy these samples are.

    `scores` has shape (candidates, samples), with NaN for samples that one did not see; `generations` has shape
    (candidates,). A score is fitted as the sum of a mean, the generation's ability, the candidate's ability and the
    sample's ease, by least squares with ridges. A ridge acts like that number of additional neutral samples (or
    candidates).
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
    """Return the number of samples of each task that have been seen after each block; `sizes` are the tasks' sizes.

    After the first block, `first` samples of all tasks together, in proportion to their sizes; each further block
    multiplies that by `growth`, up to the share `limit`. Each block adds at least one sample of each task.
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
