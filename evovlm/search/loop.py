"""The generation loop: ask, evaluate, tell. It handles genomes and outcomes, and knows nothing about models."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evovlm.errors import AllCandidatesFailed, RunMismatch
from evovlm.recipes.candidate import Evaluation, Genome, Outcome
from evovlm.search.optimizer import Feedback, Optimizer

_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """A genome and its position in the search: `index` counts over the whole search, both numbers from 0."""

    genome: Genome
    generation: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """One generation with its outcomes, and the optimizer's mean after it learned from them."""

    number: int
    proposals: tuple[Proposal, ...]
    outcomes: tuple[Outcome, ...]
    mean: Genome


@dataclass(frozen=True, slots=True, kw_only=True)
class NextGeneration:
    """The generation that would come next: its `number`, its size, and the number of candidates `before` it."""

    number: int
    before: int
    candidates: int


def search(
    optimizer: Optimizer,
    *,
    continues: Callable[[NextGeneration], bool],
    evaluate: Callable[[tuple[Proposal, ...]], Sequence[Outcome]],
    on_generation: Callable[[Generation], None],
) -> int:
    """Run whole generations while `continues` returns True; return their number.

    To replay recorded outcomes, pass an `evaluate` that returns them without work. A Failure counts as the worst of its
    generation. Raises AllCandidatesFailed, before the optimizer learns anything, when a whole generation fails.
    """
    number, index = 0, 0
    while continues(NextGeneration(number=number, before=index, candidates=optimizer.population)):
        proposals = tuple(
            Proposal(genome=genome, generation=number, index=index + position)
            for position, genome in enumerate(optimizer.ask())
        )
        outcomes = tuple(evaluate(proposals))
        optimizer.tell([proposal.genome for proposal in proposals], feedback_on(outcomes, generation=number))
        on_generation(Generation(number=number, proposals=proposals, outcomes=outcomes, mean=optimizer.mean))
        number, index = number + 1, index + len(proposals)
    return number


def replayed(optimizer: Optimizer, generations: Sequence[Sequence[Outcome]]) -> Iterator[Optimizer]:
    """Yield a new optimizer in its state before each recorded generation, and after the last.

    The state comes from the recorded outcomes alone. Raises RunMismatch when the optimizer asks for another number of
    candidates than a generation has, AllCandidatesFailed when a whole generation failed.
    """
    yield optimizer
    for number, outcomes in enumerate(generations):
        genomes = optimizer.ask()
        if len(genomes) != len(outcomes):
            raise RunMismatch(
                f"generation {number} has {len(outcomes)} candidates, and this search asks for {len(genomes)}.\n"
                "    The journal was changed or belongs to another search; start a new run in another folder."
            )
        optimizer.tell(genomes, feedback_on(outcomes, generation=number))
        yield optimizer


def feedback_on(outcomes: Sequence[Outcome], *, generation: int) -> list[Feedback]:
    """Return the feedback on each outcome; a failure gets the worst fitness and goals of the generation.

    Raises AllCandidatesFailed when all outcomes are failures.
    """
    known = [outcome.evaluation for outcome in outcomes if outcome.evaluation]
    if not known:
        # Only the first line of each error: the others advise on the command in which it was first raised.
        reasons = sorted({each.failure.reason.partition("\n")[0] for each in outcomes if each.failure})
        raise AllCandidatesFailed(
            "\n    ".join(
                [
                    f"generation {generation}: none of its {len(outcomes)} candidates could be evaluated:",
                    *reasons[:_REASONS],
                    "Fix the cause, then run the same command with --resume.",
                ]
            )
        )
    worst = Feedback(
        fitness=min(each.fitness for each in known),
        goals=tuple(min(values) for values in zip(*(each.goals for each in known), strict=True)),
    )
    return [_feedback_on(each.evaluation) if each.evaluation else worst for each in outcomes]


def _feedback_on(evaluation: Evaluation) -> Feedback:
    per_sample = {
        (name, row): value
        for name, score in evaluation.scores.items()
        for row, value in zip(
            range(len(score.per_sample)) if score.rows is None else score.rows, score.per_sample, strict=True
        )
    }
    return Feedback(fitness=evaluation.fitness, goals=evaluation.goals, per_sample=per_sample)
