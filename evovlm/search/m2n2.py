"""Recombination in the manner of M2N2 (Abrantes et al. 2025, arXiv 2508.16204): niches of samples, and split points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import KeepsBest, Start, Told
from evovlm.seeding import generator

PerSample: TypeAlias = Mapping[tuple[str, int], float]

_KEPT = 20
"""How many genomes the archive holds (as the paper's), or as many as a generation has."""

_STEP = 0.3
"""A mutation's standard deviation, in `sigma`."""

_WITHOUT_SAMPLES: tuple[str, int] = ("", 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Member:
    """A genome of the archive, and its score on each sample that it was scored on."""

    genome: Genome
    per_sample: PerSample


class M2n2(KeepsBest):
    """Recombination (M2N2): genomes that compete for samples, and mate with those that are right where they are wrong.

    An archive of 20 genomes (or as many as a generation has). Each sample is worth 1, shared by all of the archive in
    proportion to their scores on it; what a genome gets of all samples is its shared fitness. A genome that is told is
    added, then the one of the least shared fitness leaves. The first parent is drawn in proportion to shared fitness,
    the second in proportion to what it would get of the samples beyond what the first gets (its attraction). A child
    takes, of each gene before a split point, the share r from the first and 1 - r from the second, and the other way
    round after it; then it mutates. Genes lie in the order of the model's units, so that a split is one between layers.

    A gene of levels is taken from the parent of the larger share, and redrawn with probability 1 / dim. The first
    generation is the initial genome and draws around it, as CMA-ES draws. Its mean is the genome of the highest fitness
    so far. Mutation is not the paper's: that one, among trained models, has none, or adds noise to weights.
    """

    purpose: ClassVar[str] = "parents that are good at different samples: layer by layer from one or the other"
    takes_goals: ClassVar[bool] = False

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self._has_levels = start.levels_of_genes >= 2
        self._draws = generator("m2n2", start.seed)
        self._archive: list[_Member] = []

    def ask(self) -> tuple[Genome, ...]:
        """Return the next generation."""
        if len(self._archive) < 2:
            nearby = [self._start.nearby(self._draws) for _ in range(self.population)]
            return (self._start.initial.copy(), *nearby[1:])
        shares = shared([member.per_sample for member in self._archive])
        return tuple(self._child(shares) for _ in range(self.population))

    def tell(self, genomes: Sequence[Genome], told: Sequence[Told]) -> None:
        """Let the genomes compete with the archive, one after the other."""
        super().tell(genomes, told)
        kept = max(_KEPT, self.population)
        any_samples = any(each.per_sample for each in told)
        for genome, each in zip(genomes, told, strict=True):
            if any_samples and not each.per_sample:
                # It failed: nothing is known of what it is good at.
                continue
            per_sample = each.per_sample or {_WITHOUT_SAMPLES: each.fitness}
            self._archive.append(_Member(genome=genome.copy(), per_sample=per_sample))
            if len(self._archive) > kept:
                fitness = shared([member.per_sample for member in self._archive]).sum(axis=1)
                # Of equals the oldest leaves, so that a plateau is walked over.
                del self._archive[int(fitness.argmin())]

    def _child(self, shares: npt.NDArray[np.float64]) -> Genome:
        first = self._drawn(shares.sum(axis=1))
        second = self._drawn(np.maximum(shares - shares[first], 0.0).sum(axis=1))
        split = int(self._draws.integers(self._start.dim + 1))
        ratio = float(self._draws.random())
        of_first = np.where(np.arange(self._start.dim) < split, ratio, 1.0 - ratio)
        a, b = self._archive[first].genome, self._archive[second].genome
        mixed = np.where(self._has_levels, np.where(of_first >= 0.5, a, b), of_first * a + (1.0 - of_first) * b)
        return self._mutated(mixed)

    def _mutated(self, genome: Genome) -> Genome:
        dim = len(genome)
        moved = np.clip(genome + self._draws.normal(0.0, _STEP * self._start.sigma, dim), 0.0, 1.0)
        redrawn = np.where(self._draws.random(dim) < 1.0 / dim, self._draws.random(dim), genome)
        return np.where(self._has_levels, redrawn, moved)

    def _drawn(self, amounts: npt.NDArray[np.float64]) -> int:
        """Return an index, drawn in proportion to the amounts; where all are 0, any."""
        total = float(amounts.sum())
        return int(self._draws.choice(len(amounts), p=amounts / total if total > 0 else None))


def shared(archive: Sequence[PerSample]) -> npt.NDArray[np.float64]:
    """Return how much of each sample each genome of the archive gets, shape (genomes, samples).

    The samples are all that any of them was scored on. A score that is missing is estimated as the sample's mean over
    those that have it, times how the genome does on its own samples in proportion to their means; so a genome gains
    and loses little by having been scored on few of them. Scores below 0 are counted from the sample's lowest one.
    """
    scores = _filled(archive)
    scores = scores - np.minimum(scores.min(axis=0), 0.0)
    total = scores.sum(axis=0)
    # Where all are wrong there is nothing to share.
    shares: npt.NDArray[np.float64] = scores / np.where(total > 0, total, 1.0)
    return shares


def _filled(archive: Sequence[PerSample]) -> npt.NDArray[np.float64]:
    keys = {key: column for column, key in enumerate(dict.fromkeys(key for each in archive for key in each))}
    scores = np.full((len(archive), len(keys)), np.nan)
    for row, each in enumerate(archive):
        scores[row, [keys[key] for key in each]] = list(each.values())
    known = ~np.isnan(scores)
    if known.all():
        return scores
    means = np.nanmean(scores, axis=0)
    expected = (known * means).sum(axis=1)
    reached = np.where(known, scores, 0.0).sum(axis=1)
    ratio = np.where(expected > 0, reached / np.where(expected > 0, expected, 1.0), 1.0)
    return np.where(known, scores, ratio[:, None] * means)
