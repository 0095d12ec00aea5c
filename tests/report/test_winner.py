"""A winner's numbers, and the merges that it is compared with."""

from pathlib import Path

import pytest

from evovlm.merging.arithmetic.methods import METHODS, get_method
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import COMPONENTS, ByComponent
from evovlm.report.content import Numbers
from evovlm.report.reading import numbers_of
from evovlm.runs.findings import RunCandidate
from evovlm.runs.run import Run
from tests.report.made_runs import N_BLOCKS, config_of, make_run, make_trading_run


def _numbers(folder: Path) -> tuple[RunCandidate, tuple[Numbers, ...]]:
    run = Run.open(folder)
    return run.pick("best"), numbers_of(run)


def test_the_numbers_are_those_of_the_best_candidates_recipe(bare_run: Path) -> None:
    winner, (weight, density) = _numbers(bare_run)
    assert isinstance(winner.recipe, ParameterMerge)
    assert (weight.parameter, density.parameter) == ("weight", "density")
    assert weight.units == ("embedding", *(f"block{n}" for n in range(N_BLOCKS)), "head")
    assert [(each.source, each.component) for each in weight.lines] == [("ja", None), ("math", None)]
    assert weight.lines[0].values == winner.recipe.parameters["ja"].weight
    assert weight.lines[0].knots == ()
    assert (weight.equal, density.equal) == (0.5, 1.0)


def test_components_stand_apart_and_only_where_they_have_tensors(tmp_path: Path) -> None:
    space = {"kind": "component x layer"}
    winner, (weight, _) = _numbers(make_run(tmp_path / "run", space=space))
    assert isinstance(winner.recipe, ParameterMerge)
    values = winner.recipe.parameters["ja"].weight
    assert isinstance(values, ByComponent)
    lines = {each.component: each.values for each in weight.lines if each.source == "ja"}
    assert list(lines) == list(COMPONENTS)
    attention = values.attention
    assert isinstance(attention, tuple)
    assert lines["attention"] == (None, *attention[1:-1], None)
    assert [place for place, value in enumerate(lines["rest"]) if value is not None] == [0, N_BLOCKS + 1]
    assert [place for place, value in enumerate(lines["norms"]) if value is None] == [0]


def test_knots_stand_where_they_are_with_the_numbers_that_were_searched(tmp_path: Path) -> None:
    space = {"kind": "interpolated", "knots": 3}
    winner, (weight, density) = _numbers(make_run(tmp_path / "run", space=space))
    ja, math = weight.lines
    # Blocks 0, 2.5 and 5 are at 1, 3.5 and 6 where the embedding is at 0.
    assert [place for place, _ in ja.knots] == [1.0, 3.5, 6.0]
    genes = winner.entry.genome.tolist()
    found = [value for line in (ja, density.lines[0], math, density.lines[1]) for _, value in line.knots]
    assert sorted(found) == pytest.approx(sorted(genes))
    for line in (*weight.lines, *density.lines):
        assert line.values[1] == line.knots[0][1]
        assert line.values[6] == line.knots[2][1]
    assert any(line.values[3] != line.values[4] for line in weight.lines)


def test_the_rest_has_no_knots_among_blocks_that_it_has_no_tensors_in(tmp_path: Path) -> None:
    space = {"kind": "component x interpolated", "knots": 3}
    _, (weight, _) = _numbers(make_run(tmp_path / "run", space=space))
    assert {each.component: len(each.knots) for each in weight.lines} == {
        "attention": 3,
        "mlp": 3,
        "norms": 3,
        "rest": 0,
    }


def test_the_choice_is_shown_with_the_parameters_of_the_chosen_method(tmp_path: Path) -> None:
    run = make_trading_run(tmp_path / "run")
    winner, numbers = _numbers(run)
    assert isinstance(winner.recipe, ParameterMerge)
    assert [each.parameter for each in numbers] == ["weight", "density", "epsilon"]
    epsilon = numbers[-1]
    assert (epsilon.low, epsilon.high, epsilon.equal) == (0.0, 0.3, 0.15)
    chosen = Run.open(run).description.chosen
    assert chosen == {"rescale": winner.recipe.settings.rescale}


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
    recipe = config_of(merge=merge, space=space).baseline()
    get_method(recipe)
    weights = {recipe.parameters[name].weight for name in names}
    assert weights == {1 / (len(names) + (METHODS[method].base == "first"))}
    assert len(names) >= fewest


def test_a_backbone_alone_is_one_source_whole() -> None:
    recipe = config_of().source_alone("ja")
    assert recipe.method == "linear"
    assert {name: each.weight for name, each in recipe.parameters.items()} == {"ja": 1.0, "math": 0.0}
    get_method(recipe)
