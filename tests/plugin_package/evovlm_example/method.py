"""A merge method: task arithmetic with half of each weight."""

from evovlm.merging.arithmetic.combination import Combination, Term
from evovlm.merging.arithmetic.method_functions import MethodInputs
from evovlm.merging.arithmetic.methods import Method


def halved(inputs: MethodInputs) -> Combination:
    """Return b + sum (w_i / 2) d_i."""
    return Combination(terms=tuple(Term(index=i, first=weight / 2) for i, weight in enumerate(inputs.weights)))


HALVED = Method(
    name="halved",
    summary="base plus half of the weighted sum of task vectors",
    paper="-",
    base="needed",
    function=halved,
)
