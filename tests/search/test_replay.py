"""An optimizer from recorded outcomes."""

import numpy as np
import pytest

from evovlm.errors import AllCandidatesFailed, RunMismatch
from evovlm.recipes.candidate import Evaluation, Failure, Outcome
from evovlm.search.catalogue import OPTIMIZERS
from evovlm.search.loop import Generation, Proposal, replayed, search
from evovlm.search.optimizer import Optimizer, Start

KINDS = sorted(OPTIMIZERS)
BROKEN = Failure(kind="not_finite", reason="the merged weights are not finite")


def outcome(proposal: Proposal) -> Outcome:
    if proposal.index % 7 == 3:
        return BROKEN
    fitness = -float(np.sum((proposal.genome - 0.3) ** 2).round(2))
    return Evaluation(scores={}, fitness=fitness, seconds={}, tokens=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_optimizer_is_where_the_search_was(kind: str) -> None:
    def new() -> Optimizer:
        return OPTIMIZERS[kind](Start(initial=np.full(3, 0.6), seed=3, sigma=0.02, levels=np.array([0, 2, 3])))

    optimizer, generations = new(), list[Generation]()
    means, figures = [optimizer.mean], [dict(optimizer.figures)]

    def on_generation(generation: Generation) -> None:
        generations.append(generation)
        means.append(optimizer.mean)
        figures.append(dict(optimizer.figures))

    search(
        optimizer,
        continues=lambda upcoming: upcoming.number < 25,
        evaluate=lambda asked: list(map(outcome, asked)),
        on_generation=on_generation,
    )
    again = new()
    for number, at in enumerate(replayed(again, [generation.outcomes for generation in generations])):
        assert np.array_equal(at.mean, means[number])
        assert dict(at.figures) == figures[number]
    assert all(map(np.array_equal, again.ask(), optimizer.ask()))


def test_a_generation_of_another_size_is_not_this_search_s() -> None:
    evaluated = Evaluation(scores={}, fitness=0.5, seconds={}, tokens=0)
    with pytest.raises(RunMismatch, match="generation 1 has 5 candidates, and this search asks for 6"):
        list(replayed(OPTIMIZERS["cma"](Start(initial=np.full(2, 0.5), seed=0)), [[evaluated] * 6, [evaluated] * 5]))
    with pytest.raises(AllCandidatesFailed):
        list(replayed(OPTIMIZERS["cma"](Start(initial=np.full(2, 0.5), seed=0)), [[BROKEN] * 6]))
