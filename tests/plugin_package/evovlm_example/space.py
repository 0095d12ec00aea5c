"""A search space: one number for each half of the blocks."""

from evovlm.recipes.space_kinds import SpaceKind
from evovlm.recipes.unit_ties import UnitTie, tied_in_groups


def tied_in_halves(n_blocks: int) -> UnitTie:
    """Return the tie of the first and the second half of the blocks."""
    return tied_in_groups(n_blocks, group=-(-n_blocks // 2))


HALVES = SpaceKind(summary="One number for each half of the blocks, the embedding, the head.", tie=tied_in_halves)
