"""A winner's numbers, and the merges that it is held against."""

from pathlib import Path

import pytest

from evovlm.merging.methods import METHODS, get_method
from evovlm.report.winner import equal_weights, numbers_of, winner_of
from evovlm.runs.journal import read_journal
from evovlm.runs.parents import alone
from tests.report.made_runs import N_BLOCKS, config_of


def test_the_numbers_are_those_of_the_best_candidates_recipe(bare_run: Path) -> None:
    winner = winner_of(read_journal(bare_run / "journal.jsonl"), config_of())
    assert winner is not None
    weight, density = numbers_of(winner.recipe)
    assert (weight.parameter, density.parameter) == ("weight", "density")
    assert weight.units == ("embedding", *(f"block{n}" for n in range(N_BLOCKS)), "head")
    assert weight.by_source["ja"] == winner.recipe.parameters["ja"].weight
    assert (weight.equal, density.equal) == (0.5, 1.0)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.parameters])
def test_every_method_that_can_be_searched_has_an_equal_weights_merge(method: str) -> None:
    fewest, most = METHODS[method].sources
    names = ["math", "ja"][: most or 2]
    sources = {name: f"zoo:{'math-a' if name == 'math' else name}" for name in names}
    merge = {"base": "zoo:base", "sources": sources, "method": method}
    if METHODS[method].base == "none":
        del merge["base"]
        merge["host"] = "zoo:ja"
    space = {"kind": "model"}
    template = config_of(merge=merge, space=space).template(relative_to=None)
    recipe = equal_weights(template)
    get_method(recipe)
    weights = {recipe.parameters[name].weight for name in names}
    assert weights == {1 / (len(names) + (METHODS[method].base == "first"))}
    assert len(names) >= fewest


def test_a_backbone_alone_is_one_source_whole() -> None:
    recipe = alone(config_of().template(relative_to=None), "ja")
    assert recipe.method == "linear"
    assert {name: each.weight for name, each in recipe.parameters.items()} == {"ja": 1.0, "math": 0.0}
    get_method(recipe)
