"""An optimizer brought to where a search has come, from its recorded outcomes alone."""

from collections.abc import Iterator, Sequence

from evovlm.errors import RunMismatch
from evovlm.search.loop import Outcome, told
from evovlm.search.optimizer import Optimizer


def replayed(optimizer: Optimizer, generations: Sequence[Sequence[Outcome]]) -> Iterator[Optimizer]:
    """Yield a new optimizer as it is before each generation is told, and after the last.

    Raises RunMismatch when it asks for another number of candidates than a generation has, AllCandidatesFailed when
    one has nothing but failures.
    """
    yield optimizer
    for number, outcomes in enumerate(generations):
        genomes = optimizer.ask()
        if len(genomes) != len(outcomes):
            raise RunMismatch(
                f"generation {number} has {len(outcomes)} candidates, and this search asks for {len(genomes)}.\n"
                "    The journal was changed, or the search was another; start a new run in another folder."
            )
        optimizer.tell(genomes, told(outcomes, generation=number))
        yield optimizer
