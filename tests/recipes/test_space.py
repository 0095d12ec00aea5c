"""What every space holds, and what a gene means."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.kinds import PathTemplate, Recipe
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.path_space import PathSpace
from evovlm.recipes.recipe import MergeTemplate
from evovlm.recipes.recipe_space import RecipeSpace
from evovlm.recipes.space import Gene, Space
from evovlm.recipes.space_kinds import search_space
from evovlm.seeding import generator

A, B = ModelRef(text="org/a"), ModelRef(text="org/b")
RECIPES = RecipeSpace(
    template=MergeTemplate(base=A, host=A, sources={"a": A, "b": B}, method="dare_ties"),
    numbers=search_space("layer", ("a", "b"), 3, ranges={"weight": (-1.0, 2.0), "b.weight": (0.0, 3.0)}),
    choices=(Gene(name="rescale", options=("density", "l1")),),
    uses=METHODS,
)
PATHS = PathSpace(
    template=PathTemplate(sources={"a": A, "b": B}, host=A, scale_target="pending"), blocks={"a": 3, "b": 4}
)
SPACES = pytest.mark.parametrize("space", [RECIPES, PATHS], ids=["recipes", "paths"])


def drawn(space: Space) -> Recipe:
    return space.decode(generator("space", 0).random(space.dim))


@SPACES
def test_genes_have_unique_names_and_give_dimension_and_levels(space: Space) -> None:
    assert len({gene.name for gene in space.genes}) == space.dim == len(space.initial)
    assert space.levels.tolist() == [len(gene.options) for gene in space.genes]


@SPACES
def test_a_recipe_of_the_space_is_nearest_to_itself(space: Space) -> None:
    genome, gap = space.nearest(drawn(space))
    assert gap.size < 1e-12
    assert space.decode(genome).recipe_id == space.decode(space.encode(drawn(space))).recipe_id


@SPACES
def test_a_search_starts_where_it_is_asked_to(space: Space) -> None:
    moved = space.starting_at(drawn(space))
    assert type(moved) is type(space)
    assert not np.array_equal(moved.initial, space.initial)
    assert moved.genes == space.genes
    assert moved.decode(moved.initial).path == drawn(space).path or drawn(space).path is None


@SPACES
def test_a_point_outside_the_cube_or_of_another_shape_is_refused(space: Space) -> None:
    for genome in (space.initial[:-1], space.initial + 2.0):
        with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
            space.decode(genome)


def test_numbers_are_described_with_their_ranges_and_choices() -> None:
    found = RECIPES.describe(RECIPES.initial)
    assert found.units == ("embedding", "block0", "block1", "block2", "head")
    assert [(each.source, each.name) for each in found.numbers] == [
        (source, parameter) for source in ("a", "b") for parameter in ("weight", "density")
    ]
    assert found.numbers[0].values == (0.5,) * 5
    # The range over all sources.
    assert found.ranges == {"weight": (-1.0, 3.0), "density": (0.0, 1.0)}
    assert (found.chosen, found.path, found.is_host) == ({"rescale": "density"}, None, False)


def test_a_path_is_described_and_the_host_recognised() -> None:
    found = PATHS.describe(PATHS.initial)
    assert found.path is not None
    assert (found.is_host, found.numbers, found.chosen) == (True, (), {})
    assert not PATHS.describe(np.ones(PATHS.dim)).is_host
    assert PATHS.largest.path is not None
    assert len(PATHS.largest.path) == PATHS.n_positions


def test_sources_of_a_path_have_no_weights_and_a_merge_has_no_path() -> None:
    with pytest.raises(ConfigError, match="at a recipe with a path"):
        PATHS.equal_weights(0.5)
    with pytest.raises(ConfigError, match="at a recipe with a path"):
        PATHS.encode(drawn(RECIPES))
    with pytest.raises(ConfigError, match="a merge of parameters is needed"):
        RECIPES.encode(drawn(PATHS))


@given(low=st.floats(-5, 5), width=st.floats(0.01, 5), coordinate=st.floats(0, 1))
def test_a_number_comes_back_from_its_coordinate(low: float, width: float, coordinate: float) -> None:
    gene = Gene(name="x", low=low, high=low + width)
    value = gene.value(coordinate)
    assert gene.low <= value <= gene.high
    assert math.isclose(gene.value(gene.coordinate(value)), value, abs_tol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_an_option_takes_one_of_equal_parts(n: int) -> None:
    gene = Gene(name="x", options=tuple(range(n)))
    for option in range(n):
        # A boundary belongs to the lower part.
        inside = (option + 0.01) / n, (option + 0.5) / n, (option + 1) / n
        assert [gene.value(coordinate) for coordinate in inside] == [option] * 3
        assert gene.coordinate(option) == (option + 0.5) / n
    assert gene.value(0.0) == 0
