"""M2N2: how samples are shared, who mates, and what becomes of children."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evovlm.recipes.candidate import Genome
from evovlm.search.m2n2 import M2n2, shared
from evovlm.search.optimizer import Feedback, Start
from evovlm.seeding import generator
from tests.reference import shared_fitness

KEYS = [("math", row) for row in range(4)] + [("pictures", row) for row in range(3)]
SCORES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
WHOLE = st.fixed_dictionaries(dict.fromkeys(KEYS, SCORES))
SOME = st.dictionaries(st.sampled_from(KEYS), SCORES, min_size=1)


@given(archive=st.lists(WHOLE, min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_fitness_and_attraction_are_those_of_the_paper(archive: list[dict[tuple[str, int], float]]) -> None:
    shares = shared(archive)
    for i in range(len(archive)):
        assert shares[i].sum() == pytest.approx(shared_fitness.fitness(archive, i))
        for k in range(len(archive)):
            attraction = np.maximum(shares[k] - shares[i], 0.0).sum()
            assert attraction == pytest.approx(shared_fitness.attraction(archive, i, k))


@given(archive=st.lists(SOME, min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_missing_scores_are_estimated_from_those_that_are_known(archive: list[dict[tuple[str, int], float]]) -> None:
    filled = shared_fitness.estimated(archive)
    expected = [shared_fitness.fitness(filled, i) for i in range(len(archive))]
    assert shared(archive).sum(axis=1) == pytest.approx(expected)


def test_a_genome_scored_on_fewer_samples_gets_about_as_much_on_average() -> None:
    draws = generator("test", 0)
    gained = []
    for _ in range(300):
        hardness, ability = draws.random(30), draws.random((8, 1))
        archive = [
            {("t", sample): float(right) for sample, right in enumerate(row)}
            for row in draws.random((8, 30)) < (hardness + ability) / 2
        ]
        raced = [{key: archive[0][key] for key in list(archive[0])[:12]}, *archive[1:]]
        gained.append(float(shared(raced)[0].sum() - shared(archive)[0].sum()))
    # Of 30 samples among 8 genomes, each gets 3.75 on average.
    assert abs(float(np.mean(gained))) < 0.1


def test_a_sample_that_few_are_right_on_is_worth_more() -> None:
    rare = {("t", 0): 1.0, ("t", 1): 0.0}
    common = {("t", 0): 0.0, ("t", 1): 1.0}
    assert shared([rare, common, common]).sum(axis=1).tolist() == [1.0, 0.5, 0.5]


def halves(genome: Genome) -> Feedback:
    """Return a score on 40 samples: 20 for the first four genes at 0.9, 20 for the last four at 0.1."""
    ends = [(genome[:4], 0.9), (genome[4:], 0.1)]
    per_sample = {
        (f"half{half}", row): float(np.abs(part - end).max() < 0.02 * (row + 1))
        for half, (part, end) in enumerate(ends)
        for row in range(20)
    }
    return Feedback(fitness=sum(per_sample.values()) / 40, per_sample=per_sample)


def test_two_specialists_are_joined_where_one_s_part_ends() -> None:
    """The first generation is replaced by specialists, each right in one half of the genes."""
    specialists = [np.array([0.9] * 4 + [0.9] * 4), np.array([0.1] * 4 + [0.1] * 4)]
    joined = 0.0
    optimizer = M2n2(Start(initial=np.full(8, 0.5), seed=0, sigma=1e-3))
    optimizer.ask()
    optimizer.tell(specialists, [halves(genome) for genome in specialists])
    assert max(halves(genome).fitness for genome in specialists) <= 0.5
    for _ in range(20):
        genomes = optimizer.ask()
        told = [halves(genome) for genome in genomes]
        joined = max(joined, *(each.fitness for each in told))
        optimizer.tell(genomes, told)
    assert joined > 0.8
    assert halves(optimizer.mean).fitness == joined


def test_the_archive_keeps_those_who_stand_alone_on_a_sample() -> None:
    """Sixty copies of a good genome do not drive out the only one that is right on the last sample."""
    optimizer = M2n2(Start(initial=np.full(2, 0.5), seed=0, population=6))
    lone, good = np.array([0.9, 0.9]), np.array([0.1, 0.1])
    lone_told = Feedback(fitness=0.25, per_sample={("t", row): float(row == 3) for row in range(4)})
    good_told = Feedback(fitness=0.75, per_sample={("t", row): float(row < 3) for row in range(4)})
    optimizer.tell([lone], [lone_told])
    for _ in range(10):
        optimizer.tell([good] * 6, [good_told] * 6)
    assert sum(np.array_equal(member.genome, lone) for member in optimizer._archive) == 1
    assert len(optimizer._archive) == 20


def test_a_failure_among_evaluated_genomes_is_not_kept() -> None:
    optimizer = M2n2(Start(initial=np.full(2, 0.5), seed=0))
    genomes = [np.array([0.2, 0.2]), np.array([0.4, 0.4])]
    optimizer.tell(genomes, [Feedback(fitness=0.5, per_sample={("t", 0): 0.5}), Feedback(fitness=0.5)])
    assert [member.genome.tolist() for member in optimizer._archive] == [[0.2, 0.2]]


def test_children_take_the_levels_of_one_parent_or_the_other() -> None:
    levels = np.array([3] * 6)
    optimizer = M2n2(Start(initial=np.full(6, 0.5), seed=0, levels=levels))
    parents = [np.full(6, 1 / 6), np.full(6, 5 / 6)]
    optimizer.tell(parents, [Feedback(fitness=0.5, per_sample={("t", row): float(row == which) for row in range(2)})
                             for which in range(2)])  # fmt: skip
    genes = np.concatenate([optimizer.ask() for _ in range(40)]).ravel()
    taken = np.isin(genes, [1 / 6, 5 / 6])
    # One gene in six is redrawn.
    assert 0.75 < taken.mean() < 0.92
