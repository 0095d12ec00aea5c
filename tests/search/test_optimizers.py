"""What every row of OPTIMIZERS must hold, and what CMA-ES alone must."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import cma
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.recipes.candidate import Genome, Levels
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.cmaes import CmaEs, CmaEsWithMargin
from evovlm.search.optimizer import DEFAULT_SIGMA, Feedback, Optimizer, Start, default_population

KINDS = sorted(OPTIMIZERS)
MIXED = ["catcma", "cma_margin"]


def middle(dim: int) -> Genome:
    return np.full(dim, 0.5)


def two(binary: npt.ArrayLike) -> Levels:
    """Return the levels of genes of which some are binary."""
    return np.where(binary, 2, 0)


def closeness(target: Genome) -> Callable[[Genome], float]:
    return lambda genome: -float(np.sum((genome - target) ** 2))


def run(optimizer: Optimizer, fitness: Callable[[Genome], float], *, generations: int) -> list[Genome]:
    asked: list[Genome] = []
    for _ in range(generations):
        genomes = optimizer.ask()
        asked += genomes
        optimizer.tell(genomes, [Feedback(fitness=fitness(genome)) for genome in genomes])
    return asked


def global_state() -> str:
    return str([part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state(legacy=True)])


def equal(first: Sequence[Genome], second: Sequence[Genome]) -> bool:
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@given(
    dim=st.integers(1, 12),
    n_levels=st.integers(0, 12),
    seed=st.integers(0, 2**63),
    slope=st.floats(-5, 5),
    levels=st.integers(2, 6),
)
@settings(max_examples=25, deadline=None)
def test_every_genome_and_the_mean_lie_in_the_unit_cube(
    kind: str, dim: int, n_levels: int, seed: int, slope: float, levels: int
) -> None:
    optimizer = OPTIMIZERS[kind](
        Start(initial=middle(dim), seed=seed, levels=np.where(np.arange(dim) < n_levels, levels, 0))
    )
    genomes = run(optimizer, lambda genome: slope * float(genome.sum()), generations=6)
    assert all(np.isfinite(figure) for figure in optimizer.figures.values())
    for genome in [*genomes, optimizer.mean]:
        assert genome.shape == (dim,)
        assert genome.dtype == np.float64
        assert np.all((genome >= 0) & (genome <= 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_generation_has_the_default_population_unless_one_is_given(kind: str) -> None:
    assert len(OPTIMIZERS[kind](Start(initial=middle(6), seed=0)).ask()) == 9
    chosen = OPTIMIZERS[kind](Start(initial=middle(6), seed=0, population=5))
    assert chosen.population == len(chosen.ask()) == 5


@pytest.mark.parametrize(("dim", "population"), [(1, 4), (4, 8), (6, 9), (204, 19)])
def test_the_default_population_is_4_plus_3_ln_n(dim: int, population: int) -> None:
    assert default_population(dim) == 4 + math.floor(3 * math.log(dim)) == population


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [[0, 0, 0], [2, 2, 0], [2, 2, 2], [0, 3, 5]])
def test_the_same_seed_asks_for_the_same_genomes_and_another_for_others(kind: str, levels: list[int]) -> None:
    def asked(seed: int) -> list[Genome]:
        optimizer = OPTIMIZERS[kind](Start(initial=middle(3), seed=seed, levels=np.array(levels)))
        return run(optimizer, closeness(np.array([0.2, 0.9, 0.5])), generations=8)

    assert equal(asked(7), asked(7))
    assert not equal(asked(7), asked(8))


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_s_global_stream_is_neither_used_nor_disturbed(kind: str) -> None:
    fitness = closeness(np.array([0.3, 0.6]))
    np.random.seed(1)
    before = global_state()
    undisturbed = run(OPTIMIZERS[kind](Start(initial=middle(2), seed=5)), fitness, generations=6)
    assert global_state() == before

    optimizer = OPTIMIZERS[kind](Start(initial=middle(2), seed=5))
    disturbed: list[Genome] = []
    for generation in range(6):
        np.random.seed(generation)
        disturbed += run(optimizer, fitness, generations=1)
    assert equal(undisturbed, disturbed)


def test_interleaved_searches_do_not_disturb_one_another() -> None:
    """Two searches of each kind, a generation of each in turn, ask for what each asks for alone."""
    target = closeness(np.array([0.1, 0.8, 0.4]))

    def optimizers() -> list[Optimizer]:
        return [OPTIMIZERS[kind](Start(initial=middle(3), seed=seed)) for kind in KINDS for seed in (1, 2)]

    alone = [run(optimizer, target, generations=7) for optimizer in optimizers()]
    interleaved = optimizers()
    together: list[list[Genome]] = [[] for _ in interleaved]
    for _ in range(7):
        asked = [optimizer.ask() for optimizer in interleaved]
        for genomes, optimizer, all_asked in zip(asked, interleaved, together, strict=True):
            optimizer.tell(genomes, [Feedback(fitness=target(genome)) for genome in genomes])
            all_asked += genomes
    for by_itself, with_others in zip(alone, together, strict=True):
        assert equal(by_itself, with_others)


@pytest.mark.parametrize("kind", KINDS)
def test_changing_an_asked_genome_changes_nothing(kind: str) -> None:
    spoilt = OPTIMIZERS[kind](Start(initial=middle(4), seed=3))
    for genome in spoilt.ask():
        genome[:] = -1.0
    spoilt.mean[:] = 7.0
    assert np.all((spoilt.mean >= 0) & (spoilt.mean <= 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_equal_fitnesses_for_many_generations_do_no_harm(kind: str, dim: int) -> None:
    asked = run(OPTIMIZERS[kind](Start(initial=middle(dim), seed=0)), lambda _: 0.0, generations=40)
    assert all(np.all(np.isfinite(genome)) for genome in asked)


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_the_figures_and_the_mean_changes_nothing(kind: str) -> None:
    target = closeness(np.array([0.2, 0.9, 0.5]))
    watched, alone = (OPTIMIZERS[kind](Start(initial=middle(3), seed=1, levels=np.array([0, 2, 3]))) for _ in range(2))
    genomes: list[Genome] = []
    for _ in range(8):
        first = (dict(watched.figures), watched.mean)
        assert dict(watched.figures) == first[0]
        assert np.array_equal(watched.mean, first[1])
        genomes += run(watched, target, generations=1)
    assert equal(genomes, run(alone, target, generations=8))


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_ignores_goals_and_samples_that_it_does_not_use(kind: str) -> None:
    optimizer = OPTIMIZERS[kind](Start(initial=middle(3), seed=1))
    for generation in range(6):
        genomes = optimizer.ask()
        feedback = [
            Feedback(
                fitness=float(x[0]), goals=(float(x[0]), -float(x[1])), per_sample={("t", generation): float(x[0])}
            )
            for x in genomes
        ]
        optimizer.tell(genomes, [Feedback(fitness=0.0, goals=(0.0, -1.0)), *feedback[1:]])
    assert optimizer.mean[0] > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_that_keeps_its_population_does(kind: str) -> None:
    # So small a step that one with restarts starts anew at once.
    optimizer = OPTIMIZERS[kind](Start(initial=np.full(3, 0.5), seed=1, population=4, sigma=1e-7))
    sizes = set()
    for _ in range(3):
        asked = optimizer.ask()
        sizes.add(len(asked))
        optimizer.tell(asked, [Feedback(fitness=float(genome.sum())) for genome in asked])
    assert (sizes == {4}) == OPTIMIZERS[kind].keeps_population


def test_every_optimizer_says_what_it_is_for() -> None:
    for optimizer in OPTIMIZERS.values():
        assert optimizer.purpose
        assert optimizer.__doc__
        assert len(optimizer.__doc__.splitlines()[0]) <= 120
    assert [kind for kind, optimizer in OPTIMIZERS.items() if optimizer.takes_goals] == ["nsga2"]


@pytest.mark.parametrize("kind", ["cma", "cma_separable"])
def test_the_figures_of_a_distribution_are_its_step_size_and_its_condition(kind: str) -> None:
    optimizer = OPTIMIZERS[kind](Start(initial=middle(3), seed=0))
    assert optimizer.figures == pytest.approx({"sigma": DEFAULT_SIGMA, "condition": 1.0}, rel=1e-3)
    # The first number matters ten thousand times as much as the others: the distribution becomes that long.
    steep = np.array([100.0, 1.0, 1.0])
    run(optimizer, lambda genome: -float(np.sum((steep * (genome - 0.5)) ** 2)), generations=40)
    assert optimizer.figures["sigma"] < DEFAULT_SIGMA
    assert optimizer.figures["condition"] > 300.0


@pytest.mark.parametrize("target", [[0.3, 0.7, 0.2], [1.0, 1.0, 0.0]], ids=["inside", "corner"])
def test_cma_finds_the_highest_point(target: list[float]) -> None:
    optimizer = OPTIMIZERS["cma"](Start(initial=middle(3), seed=0))
    run(optimizer, closeness(np.array(target)), generations=60)
    assert np.abs(optimizer.mean - target).max() < 0.01


def test_cma_in_one_dimension_finds_the_highest_point() -> None:
    optimizer = OPTIMIZERS["cma"](Start(initial=middle(1), seed=0))
    run(optimizer, closeness(np.array([0.8])), generations=60)
    assert abs(float(optimizer.mean[0]) - 0.8) < 0.01


def test_cma_starts_around_the_initial_point_with_the_paper_s_step() -> None:
    first = np.array([genome for seed in range(200) for genome in CmaEs(Start(initial=middle(2), seed=seed)).ask()])
    assert np.abs(first.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(first.std(axis=0) - DEFAULT_SIGMA).max() < 0.02


def test_cma_moves_as_pycma_does_when_no_bound_is_met() -> None:
    """A twin: pycma alone, with the same stream of normal draws and the sign turned by hand."""
    from evovlm.seeding import generator

    draws = generator("cma", 11)
    twin = cma.CMAEvolutionStrategy(
        [0.5] * 3,
        0.01,
        {"popsize": 7, "randn": lambda rows, cols: draws.standard_normal((rows, cols)), "seed": np.nan, "verbose": -9},
    )
    ours = CmaEs(Start(initial=middle(3), seed=11, population=7, sigma=0.01))
    target = closeness(np.array([0.52, 0.49, 0.5]))
    for _ in range(25):
        theirs = twin.ask()
        asked = ours.ask()
        assert equal(theirs, asked)
        twin.tell(theirs, [-target(genome) for genome in theirs])
        ours.tell(asked, [Feedback(fitness=target(genome)) for genome in asked])
    assert np.array_equal(np.asarray(twin.mean), ours.mean)


def test_separable_cma_learns_the_scale_of_many_genes_sooner() -> None:
    """Sixty numbers, of which the last matters a million times as much as the first."""
    scales = 10.0 ** np.linspace(0, 3, 60)

    def reached(kind: str) -> float:
        optimizer = OPTIMIZERS[kind](Start(initial=np.full(60, 0.4), seed=1))
        run(optimizer, lambda genome: -float(np.sum((scales * (genome - 0.5)) ** 2)), generations=300)
        return float(np.sum((scales * (optimizer.mean - 0.5)) ** 2))

    assert reached("cma_separable") < 0.01 * reached("cma")


def test_only_the_ranking_of_fitnesses_counts_for_cma() -> None:
    target = closeness(np.array([0.2, 0.6]))
    plain = run(CmaEs(Start(initial=middle(2), seed=4)), target, generations=10)
    curved = run(CmaEs(Start(initial=middle(2), seed=4)), lambda genome: math.exp(5 * target(genome)), generations=10)
    assert equal(plain, curved)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("random", "random_nearby", "m2n2")])
def test_what_holds_a_distribution_refuses_genomes_that_it_did_not_ask_for(kind: str) -> None:
    optimizer = OPTIMIZERS[kind](Start(initial=middle(2), seed=0))
    genomes = optimizer.ask()
    with pytest.raises(ValueError, match="last ask"):
        optimizer.tell(genomes[::-1], [Feedback(fitness=0.0)] * len(genomes))


def test_random_search_keeps_its_best_genome_as_its_mean() -> None:
    optimizer = OPTIMIZERS["random"](Start(initial=middle(2), seed=0))
    assert np.array_equal(optimizer.mean, middle(2))
    asked = run(optimizer, closeness(np.array([0.9, 0.1])), generations=5)
    assert np.array_equal(optimizer.mean, max(asked, key=closeness(np.array([0.9, 0.1]))))


def test_random_search_nearby_draws_as_the_first_generation_of_cma_does_and_never_moves() -> None:
    optimizer = OPTIMIZERS["random_nearby"](Start(initial=np.array([0.3, 0.7]), seed=0, population=400, sigma=0.1))
    asked = np.array(run(optimizer, lambda genome: float(genome.sum()), generations=4))
    assert np.abs(asked.mean(axis=0) - [0.3, 0.7]).max() < 0.01
    assert np.abs(asked.std(axis=0) - 0.1).max() < 0.01
    assert np.abs(asked[:400].mean(axis=0) - asked[-400:].mean(axis=0)).max() < 0.03


def leading_ones(genome: Genome) -> float:
    """Return how many binary genes are 1 before the first that is 0."""
    on = genome > 0.5
    return float(len(on) if on.all() else np.argmin(on))


@pytest.mark.parametrize("kind", MIXED)
def test_without_binary_genes_a_mixed_encoding_is_cma(kind: str) -> None:
    target = closeness(np.array([0.2, 0.9, 0.5]))
    assert equal(
        run(OPTIMIZERS[kind](Start(initial=middle(3), seed=2)), target, generations=10),
        run(OPTIMIZERS["cma"](Start(initial=middle(3), seed=2)), target, generations=10),
    )


@pytest.mark.parametrize("kind", MIXED)
def test_a_mixed_encoding_finds_leading_ones_and_a_point_beside_them(kind: str) -> None:
    """The plain strategy, on the same problem with the same seeds, gets stuck: see the test below."""
    assert mean_of_leading_ones(kind) > 11.8


def test_plain_cma_gets_stuck_on_binary_genes() -> None:
    assert mean_of_leading_ones("cma") < 11.0


def mean_of_leading_ones(kind: str) -> float:
    binary = np.arange(14) < 12
    found = []
    for seed in range(8):
        optimizer = OPTIMIZERS[kind](
            Start(initial=np.where(binary, 0.3, 0.5), seed=seed, sigma=0.1, population=12, levels=two(binary))
        )
        run(
            optimizer,
            lambda genome: leading_ones(genome[:12]) - float(np.sum((genome[12:] - 0.6) ** 2)),
            generations=200,
        )
        found.append(leading_ones(optimizer.mean[:12]))
    return float(np.mean(found))


@given(seed=st.integers(0, 2**32), generations=st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_the_margin_keeps_either_side_of_a_binary_gene_within_reach(seed: int, generations: int) -> None:
    binary = np.array([True, True, False])
    optimizer = CmaEsWithMargin(
        Start(initial=np.array([0.7, 0.3, 0.5]), seed=seed, population=6, sigma=0.1, levels=two(binary))
    )
    plain = CmaEs(Start(initial=np.array([0.7, 0.3, 0.5]), seed=seed, population=6, sigma=0.1))
    run(optimizer, lambda genome: float(genome[0] > 0.5) - float(genome[1] > 0.5), generations=generations)
    spread = NormalDist()
    stds, mean = optimizer._strategy.stds, optimizer._strategy.mean
    for index in (0, 1):
        above = 1.0 - spread.cdf((0.5 - mean[index]) / stds[index])
        # The margin of the paper: 1 / (dim population).
        assert min(above, 1.0 - above) >= 1 / (3 * 6) - 1e-9
    assert equal(
        plain.ask()[:1],
        CmaEsWithMargin(Start(initial=np.array([0.7, 0.3, 0.5]), seed=seed, population=6, sigma=0.1)).ask()[:1],
    )


def test_cma_learns_a_binary_gene_as_drawn_outside_the_cube() -> None:
    """A twin: pycma alone, unbounded, which sees the same fitnesses."""
    from evovlm.seeding import generator

    draws = generator("cma", 5)
    twin = cma.CMAEvolutionStrategy(
        [0.95, 0.05],
        0.3,
        {"popsize": 6, "randn": lambda rows, cols: draws.standard_normal((rows, cols)), "seed": np.nan, "verbose": -9},
    )
    ours = CmaEs(Start(initial=np.array([0.95, 0.05]), seed=5, population=6, sigma=0.3, levels=two([True, True])))
    for _ in range(10):
        theirs, asked = twin.ask(), ours.ask()
        assert equal([np.clip(genome, 0, 1) for genome in theirs], asked)
        fitnesses = [float(genome[0] > 0.5) + float(genome[1] > 0.5) + index / 10 for index, genome in enumerate(asked)]
        twin.tell(theirs, [-fitness for fitness in fitnesses])
        ours.tell(asked, [Feedback(fitness=fitness) for fitness in fitnesses])


def test_catcma_starts_from_the_probabilities_that_cma_would_draw_with() -> None:
    optimizer = OPTIMIZERS["catcma"](
        Start(
            initial=np.array([0.7, 0.3, 0.5, 0.4]),
            seed=0,
            sigma=0.1,
            population=500,
            levels=two([True, True, True, False]),
        )
    )
    expected = [NormalDist().cdf(2), NormalDist().cdf(-2), 0.5, 0.4]
    # No probability comes closer to 0 or 1 than the margin.
    expected[:2] = [min(expected[0], 0.73 ** (1 / 3)), max(expected[1], 1 - 0.73 ** (1 / 3))]
    assert np.allclose(optimizer.mean, expected)
    asked = np.array(optimizer.ask())
    assert np.abs(asked.mean(axis=0) - expected).max() < 0.05
    assert set(asked[:, :3].ravel()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", MIXED)
def test_a_space_of_binary_genes_alone_can_be_searched(kind: str) -> None:
    optimizer = OPTIMIZERS[kind](Start(initial=np.full(10, 0.3), seed=1, sigma=0.1, levels=two([True] * 10)))
    run(optimizer, lambda genome: float(np.sum(genome > 0.5)), generations=80)
    assert np.all(optimizer.mean > 0.5)


def test_catcma_s_probabilities_move_as_in_the_authors_package() -> None:
    """Golden: `CatCMA` of the package cmaes 0.13.1, three variables of two categories, given the same generations."""
    from evovlm.search.categories import Categories
    from evovlm.seeding import generator

    golden = [
        [0.9004113346093703, 0.6297633372040625, 0.3659171882498306],
        [0.6468523831372325, 0.3728952655057141, 0.3630676722192958],
        [0.6406523824694698, 0.7196959273482493, 0.5857676683635744],
        [0.4481270371244368, 0.8288677122456736, 0.42291721483308575],
        [0.566715539929037, 0.8700139643282829, 0.23529053430527466],
    ]
    draws = generator("golden", 0)
    switches = Categories([np.array([1 - p, p]) for p in (0.7, 0.3, 0.5)])
    for expected in golden:
        switches.learn((draws.random((6, 3)) < 0.5).astype(np.int64))
        found = [upper for _, upper in switches.probabilities]
        assert np.allclose(found, expected, rtol=0, atol=1e-12)
