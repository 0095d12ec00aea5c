"""Spaces of recipes: numbers and choices, both ways."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evovlm.errors import ConfigError
from evovlm.merging.arithmetic.methods import METHODS, get_method
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, MergeTemplate
from evovlm.recipes.recipe_space import RecipeSpace
from evovlm.recipes.source_values import SourceParameters
from evovlm.recipes.space import Gene
from evovlm.recipes.space_kinds import SPACES, search_space

NAMES = ("ja", "math")
TEMPLATE = MergeTemplate(
    base=ModelRef(text="org/base"),
    host=ModelRef(text="org/base"),
    sources={name: ModelRef(text=f"org/{name}") for name in NAMES},
    method="dare_ties",
    settings=MergeSettings(rescale="l1"),
    seed=1,
)
CHOICES = (
    Gene(name="method", options=("dare_ties", "linear", "della", "breadcrumbs")),
    Gene(name="config_from", options=("host", "ja")),
    Gene(name="rescale", options=("density", "l1", "none")),
    Gene(name="normalize", options=(True, False)),
    Gene(name="lambda", options=(0.5, 1.0)),
)


def space(*choices: Gene, kind: str = "model", fixed: dict[str, float] | None = None) -> RecipeSpace:
    methods = next((choice.options for choice in choices if choice.name == "method"), (TEMPLATE.method,))
    taken = {name for method in methods for name in METHODS[method].parameters}
    numbers = search_space(kind, NAMES, 6, parameters=sorted(taken), fixed=fixed)
    return RecipeSpace(template=TEMPLATE, numbers=numbers, choices=choices, uses=METHODS)


@pytest.mark.parametrize("kind", SPACES)
@hypothesis_settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_encode_undoes_decode(kind: str, data: st.DataObject) -> None:
    found = space(*CHOICES, kind=kind)
    genome = data.draw(arrays.arrays(np.float64, (found.dim,), elements=st.floats(0, 1)))
    recipe = found.decode(genome)
    # Every recipe is one that can be merged.
    get_method(recipe)
    again = found.decode(found.encode(recipe))
    assert again.template == recipe.template
    if "interpolated" not in kind:
        assert again == recipe
    assert found.numbers.gap(again.parameters, recipe.parameters).size < 1e-9


@pytest.mark.parametrize(
    ("coordinate", "option"),
    [(0.0, "a"), (1 / 3, "a"), (0.334, "b"), (0.5, "b"), (2 / 3, "b"), (0.7, "c"), (1.0, "c")],
)
def test_a_choice_is_the_interval_of_a_gene_and_a_boundary_belongs_to_the_lower_one(
    coordinate: float, option: str
) -> None:
    choice = Gene(name="method", options=("a", "b", "c"))
    assert choice.value(coordinate) == option
    assert choice.value(choice.coordinate(option)) == option
    # The middle of its part.
    assert choice.coordinate(option) == pytest.approx(("abc".index(option) + 0.5) / 3)


def test_the_levels_say_how_many_options_there_are() -> None:
    found = space(*CHOICES)
    # Weight, density, gamma and epsilon of two sources.
    assert found.levels.tolist() == [0] * 8 + [4, 2, 3, 2, 2]
    assert found.dim == len(found.levels)
    assert found.initial[8:].tolist() == [0.5] * 5


def test_what_makes_no_difference_to_the_method_is_at_its_default() -> None:
    found = space(*CHOICES)
    genome = np.full(found.dim, 0.2)
    genome[8:] = Gene(name="", options=(0, 1, 2, 3)).coordinate(1)
    linear = found.decode(genome)
    assert linear.method == "linear"
    assert linear.settings == MergeSettings(normalize=True)
    assert linear.parameters["ja"] == SourceParameters(weight=0.2)
    same = genome.copy()
    # Density, gamma and epsilon, rescale and lambda are nothing to it: the very same recipe, known already.
    same[[1, 2, 3, 5, 6, 7, 10, 12]] = 0.9
    assert found.decode(same).recipe_id == linear.recipe_id
    genome[8] = 0.1
    assert found.decode(genome).settings == MergeSettings(rescale="l1", normalize=True, lambda_=0.5)


def test_what_is_not_chosen_is_the_template_s() -> None:
    found = space(Gene(name="normalize", options=(True, False)))
    recipe = found.decode(np.ones(found.dim))
    assert recipe.settings == MergeSettings(rescale="l1", normalize=False)
    assert (recipe.method, recipe.seed, recipe.base) == (TEMPLATE.method, TEMPLATE.seed, TEMPLATE.base)


def test_a_space_may_have_choices_alone_but_not_nothing() -> None:
    fixed = {"weight": 0.5, "density": 0.5}
    found = space(Gene(name="rescale", options=("density", "l1")), fixed=fixed)
    assert found.levels.tolist() == [2]
    assert found.decode(np.array([0.2])).settings.rescale == "density"
    with pytest.raises(ConfigError, match="nothing to search"):
        space(fixed=fixed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "ties", "settings": MergeSettings()}, "method is ties, and here it is dare_ties"),
        ({"base": ModelRef(text="org/other")}, "base is org/other, and here it is org/base"),
        ({"base": None}, "base is absent, and here it is org/base"),
        ({"settings": MergeSettings(rescale="none")}, "rescale is none, and here it is l1"),
        ({"config_from": "ja"}, "config_from is ja, and here it is host"),
        (
            {"sources": {"ja": ModelRef(text="org/jp"), "math": ModelRef(text="org/math")}},
            "sources.ja is org/jp, and here it is org/ja",
        ),
    ],
)
def test_a_recipe_of_another_merge_is_refused_and_all_that_differs_is_named(
    changes: dict[str, object], words: str
) -> None:
    found = space()
    recipe = replace(found.decode(found.initial), **changes)  # type: ignore[arg-type]
    for ask in (found.encode, found.nearest):
        with pytest.raises(ConfigError, match="of another merge") as caught:
            ask(recipe)
        assert words in str(caught.value)


def test_host_seed_and_vocabulary_do_not_affect_the_numbers() -> None:
    found = space()
    recipe = found.decode(np.full(found.dim, 0.25))
    other = replace(recipe, host=ModelRef(text="org/vlm"), seed=9, vocabulary="host")
    assert found.encode(other).tolist() == [0.25] * found.dim


def test_an_option_that_the_space_does_not_have_is_named() -> None:
    found = space(Gene(name="method", options=("dare_ties", "ties")))
    recipe = replace(found.decode(found.initial), method="della")
    with pytest.raises(ConfigError, match="method is della, but the space chooses among dare_ties, ties"):
        found.nearest(recipe)


def test_equal_weights_keep_everything_and_leave_fixed_numbers_alone() -> None:
    found = space(kind="layer", fixed={"ja.weight": 0.2})
    recipe = found.equal_weights(0.4)
    assert recipe.parameters["math"] == SourceParameters(weight=0.4, density=1.0)
    assert recipe.parameters["ja"] == SourceParameters(weight=0.2, density=1.0)
    assert found.decode(found.encode(recipe)).recipe_id == recipe.recipe_id
