"""The generation loop: ask, evaluate, tell. It knows genomes and outcomes, and no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evovlm.errors import AllCandidatesFailed
from evovlm.recipes.candidate import Evaluation, Failure, Genome
from evovlm.search.optimizer import Optimizer, Told

Outcome = Evaluation | Failure

_REASONS = 3


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Before which generation a search stands, how many `candidates` it will have, and how many came `before`."""

    number: int
    before: int
    candidates: int


def search(
    optimizer: Optimizer,
    *,
    goes_on: Callable[[Standing], bool],
    evaluate: Callable[[tuple[Proposal, ...]], Sequence[Outcome]],
    on_generation: Callable[[Generation], None],
) -> int:
    """Run whole generations as long as it `goes_on`; return how many.

    A recorded outcome is replayed by an `evaluate` that returns it without work. A Failure is told as the worst of its
    generation. Raises AllCandidatesFailed, before telling, when a generation has nothing but failures.
    """
    number, index = 0, 0
    while goes_on(Standing(number=number, before=index, candidates=optimizer.population)):
        proposals = tuple(
            Proposal(genome=genome, generation=number, index=index + place)
            for place, genome in enumerate(optimizer.ask())
        )
        outcomes = tuple(evaluate(proposals))
        optimizer.tell([proposal.genome for proposal in proposals], told(outcomes, generation=number))
        on_generation(Generation(number=number, proposals=proposals, outcomes=outcomes, mean=optimizer.mean))
        number, index = number + 1, index + len(proposals)
    return number


def told(outcomes: Sequence[Outcome], *, generation: int) -> list[Told]:
    """Return what is told of each outcome; a failure's fitness and goals are the worst of the generation.

    Raises AllCandidatesFailed.
    """
    known = [outcome for outcome in outcomes if isinstance(outcome, Evaluation)]
    if not known:
        # What an error advises, in its further lines, is for the command that it first came up in.
        reasons = sorted({outcome.reason.partition("\n")[0] for outcome in outcomes if isinstance(outcome, Failure)})
        raise AllCandidatesFailed(
            "\n    ".join(
                [
                    f"generation {generation}: none of its {len(outcomes)} candidates could be evaluated:",
                    *reasons[:_REASONS],
                    "Mend the cause, then run the same command with --resume.",
                ]
            )
        )
    worst = Told(
        fitness=min(each.fitness for each in known),
        goals=tuple(min(values) for values in zip(*(each.goals for each in known), strict=True)),
    )
    return [_told(outcome) if isinstance(outcome, Evaluation) else worst for outcome in outcomes]


def _told(evaluation: Evaluation) -> Told:
    per_sample = {
        (name, row): value
        for name, score in evaluation.scores.items()
        for row, value in zip(
            range(len(score.per_sample)) if score.rows is None else score.rows, score.per_sample, strict=True
        )
    }
    return Told(fitness=evaluation.fitness, goals=evaluation.goals, per_sample=per_sample)
