"""The generation loop, driven by a real optimizer and made-up outcomes."""

from collections.abc import Callable

import numpy as np
import pytest

from evovlm.errors import AllCandidatesFailed
from evovlm.recipes.candidate import Evaluation, Failure, Outcome
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.loop import Generation, NextGeneration, Proposal, feedback_on, search
from evovlm.search.optimizer import Start


def evaluation(fitness: float) -> Evaluation:
    return Evaluation(scores={}, fitness=fitness, seconds={}, tokens=0)


BROKEN = Failure(kind="not_finite", reason="the merged weights are not finite")


def generations(count: int) -> Callable[[NextGeneration], bool]:
    return lambda upcoming: upcoming.number < count


def test_a_failure_counts_as_the_worst_of_its_generation() -> None:
    outcomes: list[Outcome] = [evaluation(0.5), BROKEN, evaluation(0.2), BROKEN]
    assert [each.fitness for each in feedback_on(outcomes, generation=0)] == [0.5, 0.2, 0.2, 0.2]


def test_a_generation_of_failures_stops_the_search_and_says_why_and_how_to_go_on() -> None:
    with pytest.raises(AllCandidatesFailed, match=r"(?s)generation 3.*2 candidates.*not finite.*--resume"):
        feedback_on([BROKEN, BROKEN], generation=3)


def test_a_failed_generation_reports_the_first_line_of_each_reason_and_no_advice_for_another_command() -> None:
    long = Failure(
        kind="BrokenCheckpoint",
        reason="models/math: lm_head.weight holds numbers that are not finite. It is sources[0].\n    Fetch it again.",
    )
    with pytest.raises(AllCandidatesFailed) as caught:
        feedback_on([long, BROKEN, long, *(Failure(kind="", reason=f"z{n}") for n in range(5))], generation=0)
    first, *reasons, last = str(caught.value).split("\n")
    assert first == "generation 0: none of its 8 candidates could be evaluated:"
    assert reasons == [
        "    models/math: lm_head.weight holds numbers that are not finite. It is sources[0].",
        f"    {BROKEN.reason}",
        "    z0",
    ]
    assert last == "    Fix the cause, then run the same command with --resume."


def test_proposals_are_numbered_through_and_each_generation_is_reported_once() -> None:
    proposals: list[Proposal] = []
    ended: list[Generation] = []

    def evaluate(asked: tuple[Proposal, ...]) -> list[Outcome]:
        proposals.extend(asked)
        return [evaluation(float(proposal.genome.sum())) for proposal in asked]

    optimizer = OPTIMIZERS["cma"](Start(initial=np.full(2, 0.5), seed=0))
    assert search(optimizer, continues=generations(3), evaluate=evaluate, on_generation=ended.append) == 3
    assert [proposal.index for proposal in proposals] == list(range(18))
    assert [proposal.generation for proposal in proposals] == [0] * 6 + [1] * 6 + [2] * 6
    assert [generation.number for generation in ended] == [0, 1, 2]
    assert np.array_equal(ended[-1].mean, optimizer.mean)
    assert ended[1].proposals == tuple(proposals[6:12])


def test_a_search_with_the_same_outcomes_asks_for_the_same_genomes() -> None:
    def asked() -> list[bytes]:
        genomes: list[bytes] = []

        def outcome(proposal: Proposal) -> Outcome:
            genomes.append(proposal.genome.tobytes())
            return BROKEN if proposal.index % 5 == 1 else evaluation(-float(((proposal.genome - 0.3) ** 2).sum()))

        search(
            OPTIMIZERS["cma"](Start(initial=np.full(3, 0.5), seed=9)),
            continues=generations(6),
            evaluate=lambda asked: [outcome(proposal) for proposal in asked],
            on_generation=lambda _: None,
        )
        return genomes

    assert asked() == asked()


def test_an_optimizer_learns_nothing_from_a_failed_generation() -> None:
    optimizer = OPTIMIZERS["random"](Start(initial=np.full(2, 0.5), seed=0))
    ended: list[Generation] = []
    with pytest.raises(AllCandidatesFailed):
        search(
            optimizer,
            continues=generations(1),
            evaluate=lambda asked: [BROKEN] * len(asked),
            on_generation=ended.append,
        )
    assert ended == []
    assert np.array_equal(optimizer.mean, np.full(2, 0.5))
