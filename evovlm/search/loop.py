"""The generation loop: ask, evaluate, tell. It knows genomes and outcomes, and no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evovlm.errors import AllCandidatesFailed
from evovlm.recipes.candidate import Evaluation, Failure, Genome
from evovlm.search.optimizer import Optimizer

Outcome = Evaluation | Failure


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """A genome and its place in the search; `index` counts over the whole search, both from 0."""

    genome: Genome
    generation: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """One generation with its outcomes, and the optimizer's mean after it was told."""

    number: int
    proposals: tuple[Proposal, ...]
    outcomes: tuple[Outcome, ...]
    mean: Genome


def search(
    optimizer: Optimizer,
    *,
    generations: int,
    evaluate: Callable[[Proposal], Outcome],
    on_generation: Callable[[Generation], None],
) -> None:
    """Run whole generations. A recorded outcome is replayed by an `evaluate` that returns it without work.

    A Failure is told as the worst fitness of its generation. Raises AllCandidatesFailed, before telling, when a
    generation has nothing but failures.
    """
    index = 0
    for number in range(generations):
        proposals = []
        for genome in optimizer.ask():
            proposals.append(Proposal(genome=genome, generation=number, index=index))
            index += 1
        outcomes = tuple(evaluate(proposal) for proposal in proposals)
        optimizer.tell([proposal.genome for proposal in proposals], told_fitnesses(outcomes, generation=number))
        on_generation(Generation(number=number, proposals=tuple(proposals), outcomes=outcomes, mean=optimizer.mean))


def told_fitnesses(outcomes: Sequence[Outcome], *, generation: int) -> list[float]:
    """Return each outcome's fitness; a failure's is the worst of the generation. Raises AllCandidatesFailed."""
    known = [outcome.fitness for outcome in outcomes if isinstance(outcome, Evaluation)]
    if not known:
        reasons = sorted({outcome.reason for outcome in outcomes if isinstance(outcome, Failure)})
        raise AllCandidatesFailed(
            f"generation {generation}: none of its {len(outcomes)} candidates could be evaluated "
            f"({'; '.join(reasons[:3])}).\n    Mend the cause, then run the same command with --resume."
        )
    worst = min(known)
    return [outcome.fitness if isinstance(outcome, Evaluation) else worst for outcome in outcomes]
