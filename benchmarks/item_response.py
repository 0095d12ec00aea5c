"""Item response theory for picking samples: a two-parameter logistic model, anchors by clustering, p-IRT and gp-IRT.

    python benchmarks/item_response.py

Checks the fit against simulated candidates whose parameters are known. Sources: tinyBenchmarks (Polo et al. 2024, arXiv
2402.14992), MERGE^3 (Mencattini et al. 2025, arXiv 2502.10436). With one dimension of ability, the estimator of
MERGE^3 (a child's ability as a combination of its parents') equals p-IRT: any ability is such a combination.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_ROUNDS = 60
# Priors: slopes 1 +- 0.5, intercepts 0 +- 3, abilities 0 +- 1.
_SLOPE, _SLOPE_PRECISION, _INTERCEPT_PRECISION = 1.0, 4.0, 1 / 9


def logistic(values: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-values))


@dataclass(frozen=True, kw_only=True)
class Items:
    """P(right) = logistic(slope * ability + intercept), one of each per sample."""

    slopes: Floats
    intercepts: Floats

    def expected(self, abilities: Floats) -> Floats:
        """Return the probabilities, shape (abilities, samples)."""
        return logistic(np.outer(abilities, self.slopes) + self.intercepts)

    def abilities(self, scores: Floats) -> Floats:
        """Return the most likely abilities of candidates, shape (candidates, samples), NaN where unseen."""
        seen = ~np.isnan(scores)
        found = np.zeros(len(scores))
        for _ in range(30):
            share = self.expected(found)
            slope = (np.where(seen, scores - share, 0.0) * self.slopes).sum(axis=1) - found
            curve = (np.where(seen, share * (1 - share), 0.0) * self.slopes**2).sum(axis=1) + 1.0
            found = found + np.clip(slope / curve, -1.0, 1.0)
        return found


def fit(scores: Floats) -> Items:
    """Fit items and abilities alternately, by Newton steps, to scores of shape (candidates, samples) in [0, 1]."""
    items = Items(slopes=np.ones(scores.shape[1]), intercepts=np.zeros(scores.shape[1]))
    for _ in range(_ROUNDS):
        ability = items.abilities(scores)
        ability = (ability - ability.mean()) / max(ability.std(), 1e-6)
        share = items.expected(ability)
        wrong, spread = scores - share, share * (1 - share)
        by_slope = ability @ wrong - _SLOPE_PRECISION * (items.slopes - _SLOPE)
        by_intercept = wrong.sum(axis=0) - _INTERCEPT_PRECISION * items.intercepts
        a = (ability**2) @ spread + _SLOPE_PRECISION
        b = ability @ spread
        c = spread.sum(axis=0) + _INTERCEPT_PRECISION
        determinant = a * c - b * b
        slopes = items.slopes + np.clip((c * by_slope - b * by_intercept) / determinant, -1.0, 1.0)
        intercepts = items.intercepts + np.clip((a * by_intercept - b * by_slope) / determinant, -1.0, 1.0)
        items = Items(slopes=np.clip(slopes, 0.05, 6.0), intercepts=intercepts)
    return items


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Samples that represent all samples, and the share that each represents."""

    rows: tuple[int, ...]
    weights: Floats


def anchors(items: Items, *, count: int, draws: np.random.Generator) -> Anchors:
    """Cluster the samples by slope and intercept (k-means); the sample nearest to a centre is its anchor."""
    points = np.column_stack([items.slopes, items.intercepts])
    centres = points[draws.choice(len(points), size=count, replace=False)]
    for _ in range(100):
        nearest = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.array(
            [points[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    chosen: dict[int, float] = {}
    for k in range(count):
        row = int(((points - centres[k]) ** 2).sum(axis=1).argmin())
        chosen[row] = chosen.get(row, 0.0) + float((nearest == k).mean())
    return Anchors(rows=tuple(chosen), weights=np.array(list(chosen.values())))


def estimate(items: Items, chosen: Anchors, scores: Floats) -> Floats:
    """Return gp-IRT's estimates, half the anchors' weighted mean and half p-IRT, from scores (candidates, anchors)."""
    n = len(items.slopes)
    table = np.full((len(scores), n), np.nan)
    table[:, chosen.rows] = scores
    expected = items.expected(items.abilities(table))
    p_irt = np.where(np.isnan(table), expected, table).mean(axis=1)
    return 0.5 * (scores @ chosen.weights) + 0.5 * p_irt


def main() -> None:
    draws = np.random.default_rng(0)
    truth = Items(slopes=np.exp(draws.normal(0.2, 0.4, 200)), intercepts=draws.normal(0.5, 1.5, 200))
    ability = draws.normal(0.0, 1.0, 400)
    scores = (draws.random((400, 200)) < truth.expected(ability)).astype(np.float64)
    items = fit(scores[:300])
    rows = {
        "slopes": np.corrcoef(items.slopes, truth.slopes)[0, 1],
        "intercepts": np.corrcoef(items.intercepts, truth.intercepts)[0, 1],
        "abilities of others": np.corrcoef(items.abilities(scores[300:]), ability[300:])[0, 1],
    }
    chosen = anchors(items, count=20, draws=draws)
    whole = scores[300:].mean(axis=1)
    subsets = [draws.choice(200, size=len(chosen.rows), replace=False) for _ in range(100)]
    error = np.abs(estimate(items, chosen, scores[300:][:, chosen.rows]) - whole).mean()
    of_random = np.mean([np.abs(scores[300:][:, few].mean(axis=1) - whole).mean() for few in subsets])
    for name, value in rows.items():
        print(f"correlation of the {name} with the truth: {value:.3f}")
    print(f"error of the score from {len(chosen.rows)} samples: anchors {error:.4f}, random {of_random:.4f}")
    if min(rows.values()) < 0.7 or error > 1.1 * of_random:
        raise SystemExit("the fit does not recover the simulated parameters")


if __name__ == "__main__":
    main()
