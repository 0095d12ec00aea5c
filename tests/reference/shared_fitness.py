"""Slow twins of M2N2 (arXiv 2508.16204, section 3), written from the paper's equations in loops."""

from collections.abc import Mapping, Sequence

PerSample = Mapping[tuple[str, int], float]


def fitness(archive: Sequence[PerSample], i: int) -> float:
    """Return f(i): the sum over samples j of s(j, i) / z(j), with z(j) the sum of s(j, k) over the archive."""
    total = 0.0
    for j in archive[i]:
        z = sum(member[j] for member in archive)
        if z > 0:
            total += archive[i][j] / z
    return total


def attraction(archive: Sequence[PerSample], a: int, b: int) -> float:
    """Return g(a, b): the sum over samples j of max(s(j, b) - s(j, a), 0) / z(j)."""
    total = 0.0
    for j in archive[a]:
        z = sum(member[j] for member in archive)
        if z > 0:
            total += max(archive[b][j] - archive[a][j], 0.0) / z
    return total


def estimated(archive: Sequence[PerSample]) -> list[dict[tuple[str, int], float]]:
    """Return the archive with every missing score estimated: the sample's mean times how the genome does elsewhere."""
    samples = {j for member in archive for j in member}
    mean = {}
    for j in samples:
        known = [member[j] for member in archive if j in member]
        mean[j] = sum(known) / len(known)
    filled = []
    for member in archive:
        expected = sum(mean[j] for j in member)
        ratio = sum(member.values()) / expected if expected > 0 else 1.0
        filled.append({j: member[j] if j in member else ratio * mean[j] for j in samples})
    return filled
