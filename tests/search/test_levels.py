"""Genes of more than two levels in CMA-ES with margin and in CatCMA."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.recipes.candidate import Genome
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.catcma import CatCma
from evovlm.search.categories import Categories
from evovlm.search.cmaes import within_reach
from evovlm.search.optimizer import Feedback, Start

MIXED = ["catcma", "cma_margin"]

# CatCMA of the package cmaes 0.13.1: three variables of 3, 2 and 4 categories, after six ranked generations of six.
START = [[0.5, 0.2, 0.3], [0.4, 0.6], [0.1, 0.2, 0.3, 0.4]]
RANKED = [
    [[2, 0, 3], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 1]],
    [[0, 1, 2], [2, 0, 0], [2, 1, 3], [1, 1, 1], [0, 0, 3], [2, 0, 2]],
    [[2, 0, 2], [2, 1, 2], [2, 1, 2], [1, 1, 2], [0, 0, 0], [1, 0, 3]],
    [[2, 0, 3], [1, 1, 0], [0, 1, 1], [0, 1, 2], [0, 1, 0], [1, 1, 0]],
    [[2, 0, 3], [0, 1, 0], [2, 0, 3], [1, 1, 3], [0, 1, 0], [2, 1, 0]],
    [[1, 1, 0], [0, 0, 2], [1, 1, 3], [2, 0, 1], [0, 0, 1], [2, 0, 0]],
]
# fmt: off
EXPECTED = [
    [[0.198922987276279, 0.298125471703666, 0.502951541020055], [0.589937289229539, 0.410062710770461],
     [0.25834087424841, 0.079569194910512, 0.119353792365767, 0.542736138475311]],
    [[0.407493321075814, 0.156200455285423, 0.436306223638763], [0.444564870184184, 0.555435129815816],
     [0.270827582004559, 0.041689642957012, 0.365803678118803, 0.321679096919627]],
    [[0.198180834410335, 0.075966733594586, 0.72585243199508], [0.54343271451974, 0.45656728548026],
     [0.13026834163324, 0.033196221796877, 0.681898968710417, 0.154636467859467]],
    [[0.149282887441655, 0.161115511779526, 0.689601600778818], [0.581642830912035, 0.418357169087965],
     [0.193252031267524, 0.051642478437598, 0.403558205517759, 0.351547284777119]],
    [[0.228969759698143, 0.066215365475718, 0.704814874826139], [0.660445904240488, 0.339554095759512],
     [0.244128250355326, 0.033196221796877, 0.164048183099556, 0.558627344748241]],
    [[0.238696726210765, 0.179791444146334, 0.581511829642901], [0.594688762164854, 0.405311237835145],
     [0.311005797917504, 0.033196221796877, 0.184122077258386, 0.471675903027234]],
]
# CMAwM of the package cmaes 0.13.1, its margin alone, for 2 genes and a population of 6:
# mean, levels, spread -> mean, spread.
MARGINS = [
    (0.5, 3, 0.3, 0.5, 0.3), (0.5, 3, 0.05, 0.5, 0.09624651695783948), (0.4, 3, 0.3, 0.4, 0.3),
    (0.4, 3, 0.05, 0.4791874908054177, 0.10826530607262884), (0.4, 3, 0.004, 0.5, 0.09624651695783948),
    (0.05, 3, 0.3, 0.05, 0.3), (0.05, 3, 0.05, 0.2641836269783014, 0.05), (0.05, 3, 0.004, 0.3278013568249308, 0.004),
    (0.95, 3, 0.05, 0.7358163730216987, 0.05), (0.3, 5, 0.3, 0.3, 0.3), (0.3, 5, 0.05, 0.3, 0.05774791017470369),
    (0.55, 5, 0.05, 0.5257932196804782, 0.07264295550695016), (0.21, 5, 0.05, 0.22471823397634952, 0.10122155679597199),
    (0.62, 8, 0.05, 0.6157163691819683, 0.06682378493263148), (0.62, 8, 0.004, 0.5722068695977294, 0.04169795819526211),
    (0.99, 8, 0.3, 0.99, 0.3), (0.99, 8, 0.004, 0.8805319765084025, 0.004),
    (0.34, 3, 0.05, 0.3647332950941543, 0.17436021220314876), (0.34, 3, 0.004, 0.49695233877155776, 0.0980064776264696),
]
# fmt: on


def part(value: float, levels: int) -> int:
    """Return the equal part of [0, 1] that a number lies in; a boundary belongs to the lower part."""
    return sum(value > number / levels for number in range(1, levels))


def test_the_probabilities_of_levels_move_as_in_the_authors_package() -> None:
    """Golden. The authors hold back the last category, and we level 0: theirs is shifted by one."""
    categories = Categories([np.array([each[-1], *each[:-1]]) for each in START])
    counts = np.array([len(each) for each in START])
    for ranked, expected in zip(RANKED, EXPECTED, strict=True):
        categories.learn((np.array(ranked) + 1) % counts)
        for found, theirs in zip(categories.probabilities, expected, strict=True):
            assert np.allclose(found, [theirs[-1], *theirs[:-1]], rtol=0, atol=2e-15)


@pytest.mark.parametrize(("mean", "levels", "spread", "expected", "wider"), MARGINS)
def test_the_margin_of_levels_is_that_of_the_authors_package(
    mean: float, levels: int, spread: float, expected: float, wider: float
) -> None:
    kept = within_reach(mean, spread, levels=levels, margin=1 / 12)
    assert kept == pytest.approx((expected, wider), rel=0, abs=1e-12)


@given(mean=st.floats(-0.5, 1.5), spread=st.floats(1e-6, 2.0), levels=st.integers(3, 9), margin=st.floats(1e-4, 1 / 12))
@settings(max_examples=200, deadline=None)
def test_the_parts_beside_the_mean_s_keep_half_of_the_margin(
    mean: float, spread: float, levels: int, margin: float
) -> None:
    kept = within_reach(mean, spread, levels=levels, margin=margin)
    normal = NormalDist(kept.mean, kept.spread)
    here = min(part(mean, levels), levels - 1)
    below = normal.cdf(here / levels) if here > 0 else 1.0
    above = 1.0 - normal.cdf((here + 1) / levels) if here < levels - 1 else 1.0
    assert min(below, above) >= margin / 2 - 1e-6


def ordered(genome: Genome) -> float:
    """Return how near each of ten genes of five levels is to the level 3, and two numbers to 0.3."""
    return -float(sum(abs(part(value, 5) - 3) for value in genome[:10])) - float(np.sum((genome[10:] - 0.3) ** 2))


def unordered(genome: Genome) -> float:
    """Return how many of ten genes are at the one level of five that counts, another for each."""
    right = sum(part(value, 5) == (2 * number) % 5 for number, value in enumerate(genome[:10].tolist()))
    return float(right) - float(np.sum((genome[10:] - 0.3) ** 2))


@pytest.mark.parametrize("kind", MIXED)
def test_levels_in_an_order_are_found_beside_numbers(kind: str) -> None:
    assert mean_of_ten_genes(kind, ordered) > -0.5


def test_levels_in_no_order_are_found_by_catcma() -> None:
    found = {kind: mean_of_ten_genes(kind, unordered) for kind in ("catcma", "cma")}
    assert found["catcma"] > 9.5
    assert found["cma"] < 9.0


def mean_of_ten_genes(kind: str, fitness: object) -> float:
    assert callable(fitness)
    levels = np.where(np.arange(12) < 10, 5, 0)
    found = []
    for seed in range(3):
        optimizer = OPTIMIZERS[kind](Start(initial=np.full(12, 0.5), seed=seed, levels=levels))
        for _ in range(150):
            genomes = optimizer.ask()
            optimizer.tell(genomes, [Feedback(fitness=fitness(genome)) for genome in genomes])
        found.append(fitness(optimizer.mean))
    return float(np.mean(found))


def test_catcma_asks_for_the_middle_of_a_level_as_often_as_cma_would_draw_it() -> None:
    optimizer = CatCma(Start(initial=np.array([0.5, 0.2]), seed=0, sigma=0.3, population=3000, levels=np.array([3, 5])))
    asked = np.array(optimizer.ask())
    assert set(asked[:, 0].round(12)) == {round((level + 0.5) / 3, 12) for level in range(3)}
    assert set(asked[:, 1].round(12)) == {round((level + 0.5) / 5, 12) for level in range(5)}
    for gene, (start, levels) in enumerate([(0.5, 3), (0.2, 5)]):
        normal = NormalDist(start, 0.3)
        ends = [0.0, *(normal.cdf(number / levels) for number in range(1, levels)), 1.0]
        expected = np.clip(np.diff(ends), (1 - 0.73**0.5) / (levels - 1), None)
        counts = np.bincount([part(value, levels) for value in asked[:, gene]], minlength=levels)
        assert np.abs(counts / 3000 - expected / expected.sum()).max() < 0.04


def test_catcma_s_mean_has_the_most_probable_level() -> None:
    optimizer = CatCma(Start(initial=np.array([0.5, 0.5]), seed=0, levels=np.array([4, 0])))
    for _ in range(60):
        genomes = optimizer.ask()
        optimizer.tell(genomes, [Feedback(fitness=float(part(genome[0], 4) == 1)) for genome in genomes])
    assert optimizer.mean[0] == 1.5 / 4
    assert 0.25 < optimizer.figures["settled"] < 1.0
    assert set(optimizer.figures) == {"sigma", "condition", "settled"}
