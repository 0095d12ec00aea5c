"""Recombination in the manner of M2N2 (Abrantes et al. 2025, arXiv 2508.16204): niches of samples, and split points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from evovlm.recipes.candidate import Genome
from evovlm.search.optimizer import Feedback, KeepsBest, Start
from evovlm.seeding import generator

PerSample: TypeAlias = Mapping[tuple[str, int], float]

_KEPT = 20
"""Number of genomes in the archive, as in the paper; at least a generation's size."""

_STEP = 0.3
"""Standard deviation of a mutation, as a multiple of `sigma`."""

_WITHOUT_SAMPLES: tuple[str, int] = ("", 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Member:
    """A genome of the archive, and its score on each sample on which it was scored."""

    genome: Genome
    per_sample: PerSample


class M2n2(KeepsBest):
    """Recombination (M2N2): genomes compete for samples, and mate with genomes that are right where they are wrong.

    The archive has 20 genomes, or a generation's size if that is larger. Each sample is worth 1, which the genomes of
    the archive share in proportion to their scores on it; the sum over all samples is a genome's shared fitness. Each
    new genome is added, then the genome with the least shared fitness leaves. The first parent is drawn in proportion
    to shared fitness, the second in proportion to what it would get beyond the first parent's share (its attraction).
    Before a random split point, a child's gene is r of the first parent and 1 - r of the second; after it, the other
    way round. Then the child mutates. Genes are in the order of the model's units, so a split lies between layers.

    A gene of levels comes from the parent with the larger factor, and is redrawn with probability 1 / dim. The first
    generation is the initial genome and draws around it, as in CMA-ES. The mean is the genome with the highest fitness
    so far. The mutation differs from the paper's, which has none for trained models, or adds noise to weights.
    """

    purpose: ClassVar[str] = "sources that are good at different samples: combines them layer by layer"
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

    def tell(self, genomes: Sequence[Genome], feedback: Sequence[Feedback]) -> None:
        """Add the genomes to the archive one by one; each time the weakest member leaves."""
        super().tell(genomes, feedback)
        kept = max(_KEPT, self.population)
        any_samples = any(each.per_sample for each in feedback)
        for genome, each in zip(genomes, feedback, strict=True):
            if any_samples and not each.per_sample:
                # It failed: what it is good at is unknown.
                continue
            per_sample = each.per_sample or {_WITHOUT_SAMPLES: each.fitness}
            self._archive.append(_Member(genome=genome.copy(), per_sample=per_sample))
            if len(self._archive) > kept:
                fitness = shared([member.per_sample for member in self._archive]).sum(axis=1)
                # Of equal members the oldest leaves, so that the archive can drift across a plateau.
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
        """Return an index drawn in proportion to the amounts; uniformly if all are 0."""
        total = float(amounts.sum())
        return int(self._draws.choice(len(amounts), p=amounts / total if total > 0 else None))


def shared(archive: Sequence[PerSample]) -> npt.NDArray[np.float64]:
    """Return each genome's share of each sample, shape (genomes, samples).

    The samples are all on which any genome was scored. A missing score is estimated as the sample's mean over the
    genomes that have it, times the ratio of the genome's scores on its samples to their means; so a genome gains and
    loses little by having been scored on few samples. Scores below 0 are counted from the sample's lowest score.
    """
    scores = _filled(archive)
    scores = scores - np.minimum(scores.min(axis=0), 0.0)
    total = scores.sum(axis=0)
    # If all are wrong on a sample, no genome gets a share of it.
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
