"""Recipes as values."""

import math
from dataclasses import replace

import pytest

from evovlm.errors import ConfigError
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, MergeTemplate, ParameterMerge
from evovlm.recipes.source_values import SourceParameters, UnitValues


def make(weight: UnitValues = 0.5, density: UnitValues = 1.0, **changes: object) -> ParameterMerge:
    ref = ModelRef(text="org/base")
    known: dict[str, object] = {
        "base": ref,
        "host": ref,
        "sources": {"a": ModelRef(text="org/a"), "b": ModelRef(text="org/b")},
        "method": "dare_ties",
        "seed": 1,
        "parameters": {name: SourceParameters(weight=weight, density=density) for name in ("a", "b")},
    }
    return ParameterMerge(**(known | changes))  # type: ignore[arg-type]


def test_the_id_is_frozen() -> None:
    # Journals and model cards hold such ids: the canonical form never changes for format 1.
    assert make().recipe_id == "adb766c56aa6"


def test_the_id_does_not_see_how_a_recipe_is_written() -> None:
    same = [
        make(),
        make(sources={"b": ModelRef(text="org/b"), "a": ModelRef(text="org/a")}),
        make(density=1),
        make(weight=(0.5, 0.5, 0.5, 0.5)),
        make(settings=MergeSettings(lambda_=1)),
    ]
    assert len({recipe.recipe_id for recipe in same}) == 1
    assert make(weight=0.0).recipe_id == make(weight=-0.0).recipe_id


def test_the_id_sees_everything_a_recipe_says() -> None:
    different = [
        make(),
        make(weight=0.6),
        make(weight=(0.5, 0.5, 0.5, 0.6)),
        make(density=0.9),
        make(seed=2),
        make(method="ties"),
        make(vocabulary="host"),
        make(host=ModelRef(text="org/a")),
        make(base=None),
        make(base=ModelRef(text="org/base@v1")),
        make(settings=MergeSettings(normalize=True)),
        make(settings=MergeSettings(rescale="l1")),
        make(settings=MergeSettings(lambda_=0.5)),
    ]
    assert len({recipe.recipe_id for recipe in different}) == len(different)


def test_a_template_and_parameters_make_the_recipe_again() -> None:
    recipe = make()
    assert type(recipe.template) is MergeTemplate
    assert recipe.template.recipe(recipe.parameters) == recipe
    assert replace(recipe, parameters=make(weight=0.1).parameters) == make(weight=0.1)


@pytest.mark.parametrize(
    ("weight", "density", "match"),
    [
        (math.nan, 1.0, "weight"),
        (math.inf, 1.0, "weight"),
        ((), 1.0, "weight"),
        (1.0, 1.1, r"\[0, 1\]"),
        (1.0, (0.5, -0.1), "density"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(weight: UnitValues, density: UnitValues, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        SourceParameters(weight=weight, density=density)


def test_names_and_lengths_must_agree() -> None:
    one = {"a": SourceParameters(weight=1.0)}
    with pytest.raises(ConfigError, match="missing for b"):
        make(parameters=one)
    with pytest.raises(ConfigError, match="unknown c"):
        make(parameters=make().parameters | {"c": SourceParameters(weight=1.0)})
    with pytest.raises(ConfigError, match="lists of 3 and of 4 numbers"):
        make(weight=(1.0,) * 3, density=(1.0,) * 4)
    with pytest.raises(ConfigError, match="at least one source"):
        make(sources={}, parameters={})
    with pytest.raises(ConfigError, match=r"'a\.b' is not a name"):
        make(sources={"a.b": ModelRef(text="x")}, parameters={"a.b": SourceParameters(weight=1.0)})
