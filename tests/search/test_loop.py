"""The generation loop, driven by a real optimizer and made-up outcomes."""

import numpy as np
import pytest

from evovlm.errors import AllCandidatesFailed
from evovlm.recipes.candidate import Evaluation, Failure
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.loop import Generation, Outcome, Proposal, search, told_fitnesses


def evaluation(fitness: float) -> Evaluation:
    return Evaluation(scores={}, fitness=fitness, seconds={}, tokens=0)


BROKEN = Failure(kind="not_finite", reason="the merged weights are not finite")


def test_a_failure_is_told_as_the_worst_of_its_generation() -> None:
    outcomes: list[Outcome] = [evaluation(0.5), BROKEN, evaluation(0.2), BROKEN]
    assert told_fitnesses(outcomes, generation=0) == [0.5, 0.2, 0.2, 0.2]


def test_a_generation_of_failures_stops_the_search_and_says_why_and_how_to_go_on() -> None:
    with pytest.raises(AllCandidatesFailed, match=r"(?s)generation 3.*2 candidates.*not finite.*--resume"):
        told_fitnesses([BROKEN, BROKEN], generation=3)


def test_proposals_are_numbered_through_and_each_generation_is_reported_once() -> None:
    proposals: list[Proposal] = []
    generations: list[Generation] = []

    def evaluate(proposal: Proposal) -> Outcome:
        proposals.append(proposal)
        return evaluation(float(proposal.genome.sum()))

    optimizer = OPTIMIZERS["cma"](np.full(2, 0.5), seed=0)
    search(optimizer, generations=3, evaluate=evaluate, on_generation=generations.append)
    assert [proposal.index for proposal in proposals] == list(range(18))
    assert [proposal.generation for proposal in proposals] == [0] * 6 + [1] * 6 + [2] * 6
    assert [generation.number for generation in generations] == [0, 1, 2]
    assert np.array_equal(generations[-1].mean, optimizer.mean)
    assert generations[1].proposals == tuple(proposals[6:12])


def test_a_search_told_the_same_outcomes_again_asks_for_the_same_genomes() -> None:
    def asked() -> list[bytes]:
        genomes: list[bytes] = []

        def evaluate(proposal: Proposal) -> Outcome:
            genomes.append(proposal.genome.tobytes())
            return BROKEN if proposal.index % 5 == 1 else evaluation(-float(((proposal.genome - 0.3) ** 2).sum()))

        search(
            OPTIMIZERS["cma"](np.full(3, 0.5), seed=9), generations=6, evaluate=evaluate, on_generation=lambda _: None
        )
        return genomes

    assert asked() == asked()


def test_nothing_is_told_of_a_generation_that_failed() -> None:
    optimizer = OPTIMIZERS["random"](np.full(2, 0.5), seed=0)
    told: list[Generation] = []
    with pytest.raises(AllCandidatesFailed):
        search(optimizer, generations=1, evaluate=lambda _: BROKEN, on_generation=told.append)
    assert told == []
    assert np.array_equal(optimizer.mean, np.full(2, 0.5))
