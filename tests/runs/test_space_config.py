"""`space:` of a config: every kind reads back, every slip is named."""

import re
from pathlib import Path

import numpy as np
import pytest

from evovlm.errors import ConfigError
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.space_kinds import SPACES
from evovlm.runs.config.kinds import config_from_mapping, load_config
from evovlm.runs.config.parameters import EvolveConfig
from tests.runs.conftest import WriteConfig, search_document

BLOCKS = {"math": 6, "ja": 6}


def with_space(models: Path, space: dict[str, object], **merge: object) -> EvolveConfig:
    """Return the small search in another space, with changes of its merge."""
    document = search_document(models)
    whole = {**document["merge"], **merge}  # type: ignore[dict-item]
    return EvolveConfig.model_validate({**document, "merge": whole, "space": space})


def recipe_of(config: EvolveConfig, coordinate: float) -> ParameterMerge:
    """Return the recipe whose genes are all the same."""
    space = config.space_for(BLOCKS)
    recipe = space.decode(np.full(space.dim, coordinate))
    assert isinstance(recipe, ParameterMerge)
    return recipe


@pytest.mark.parametrize("kind", SPACES)
def test_every_kind_reads_back_from_what_a_run_records(models: Path, kind: str) -> None:
    config = with_space(models, {"kind": kind, "weight": [-1, 2], "choices": {"method": ["ties", "dare_ties"]}})
    again = config_from_mapping(config.as_mapping())
    assert again == config
    assert isinstance(again, EvolveConfig)
    assert recipe_of(again, 0.3) == recipe_of(config, 0.3)


def test_the_kinds_options_are_taken(models: Path) -> None:
    def dim(space: dict[str, object]) -> int:
        config = with_space(models, space)
        return config.space_for(BLOCKS).dim

    assert dim({"kind": "interpolated"}) == 2 * 2 * 5
    assert dim({"kind": "interpolated", "knots": 3}) == 2 * 2 * 3
    assert dim({"kind": "grouped", "group": 3}) == 2 * 2 * (2 + 2)
    assert dim({"kind": "component x interpolated", "knots": 2}) == 2 * 2 * (2 + 2 + 2 + 2)


def test_ranges_of_one_source_and_negative_weights_when_asked(models: Path) -> None:
    space = {"weight": [-1, 2], "density": [0.1, 1], "ranges": {"ja.weight": [0, 3], "math.density": [0.4, 0.5]}}
    low, high = (recipe_of(with_space(models, space), coordinate) for coordinate in (0.0, 1.0))
    assert [(low.parameters[name].weight, high.parameters[name].weight) for name in ("math", "ja")] == [(-1, 2), (0, 3)]
    assert [low.parameters[name].density for name in ("math", "ja")] == [0.4, 0.1]


def test_a_source_is_frozen_wholly_or_in_one_number(models: Path) -> None:
    config = with_space(models, {"fixed": {"ja": {"weight": 0.7}, "math.density": 0.3}})
    recipe = recipe_of(config, 0.25)
    assert (recipe.parameters["ja"].weight, recipe.parameters["ja"].density) == (0.7, 1.0)
    assert (recipe.parameters["math"].weight, recipe.parameters["math"].density) == (0.25, 0.3)


def test_choices_of_a_method_and_its_settings(models: Path) -> None:
    choices = {"method": ["dare_ties", "linear"], "rescale": ["l1", "none"], "config_from": ["host", "math"]}
    config = with_space(models, {"choices": choices})
    first, last = recipe_of(config, 0.0), recipe_of(config, 1.0)
    assert (first.method, first.settings.rescale, first.config_from) == ("dare_ties", "l1", None)
    assert (last.method, last.settings.rescale, last.config_from) == ("linear", "density", "math")
    # The order in which they stand in the file says nothing.
    turned = with_space(models, {"choices": dict(reversed(choices.items()))})
    assert recipe_of(turned, 0.4) == recipe_of(config, 0.4)


def test_parameters_of_other_methods_have_ranges(models: Path) -> None:
    della = with_space(models, {"epsilon": [0.1, 0.2]}, method="della")
    assert recipe_of(della, 1.0).parameters["ja"].epsilon == 0.2
    crumbs = with_space(models, {"gamma": [0.0, 0.5]}, method="breadcrumbs")
    assert recipe_of(crumbs, 1.0).parameters["ja"].gamma == 0.5


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"weight": [1, 0]}, r"space.weight: \[1, 0\] is not a range; the first number must be the smaller"),
        ({"weight": [0.5, 0.5]}, r"space.weight: \[0.5, 0.5\] is not a range"),
        ({"density": [-0.1, 1]}, r"space.density: \[-0.1, 1\] leaves \[0, 1\]"),
        ({"ranges": {"ja.weight": [1, 0]}}, r"ranges: ja.weight: \[1, 0\] is not a range"),
        ({"ranges": {"ja.weight": [1]}}, r"ranges: ja.weight should be \[low, high\]"),
        ({"ranges": {"jp.weight": [0, 1]}}, r"'jp.weight' names no source's parameter; did you mean 'ja.weight'"),
        ({"ranges": {"ja.gamma": [0, 1]}}, r"'ja.gamma' names no source's parameter"),
        ({"gamma": [0, 0.5]}, r"space: gamma: dare_ties does not have it; leave it out"),
        ({"kind": "layer", "knots": 3}, r"space.knots: the space 'layer' does not have this option; leave it out"),
        ({"kind": "interpolated", "knots": 1}, r"space.knots: .*greater than or equal to 2"),
        ({"kind": "grouped", "group": 0}, r"space.group: .*greater than or equal to 1"),
        ({"kind": "component x layers"}, r"space.kind: .*did you mean 'component x layer'"),
        ({"fixed": {"jp": {"weight": 1.0}}}, r"fixed: 'jp' names no source; known: ja, math"),
        ({"fixed": {"ja": {"wait": 1.0}}}, r"fixed: 'ja.wait' names no parameter; did you mean 'ja.weight'"),
        ({"fixed": {"weight": 1.0, "density": 1.0}}, r"every parameter is fixed, so that nothing is left"),
        ({"fixed": {"ja": {}, "math": {}}}, r"every parameter is fixed, so that nothing is left"),
        ({"choices": {"colour": ["red", "blue"]}}, r"space.choices: 'colour' cannot be chosen"),
        ({"choices": {"rescale": ["l1"]}}, r"rescale needs two or more different options"),
        ({"choices": {"rescale": ["l1", "l1"]}}, r"rescale needs two or more different options"),
        ({"choices": {"rescale": ["l1", "l2"]}}, r"rescale: l2: .*'density', 'l1' or 'none'"),
        ({"choices": {"method": ["ties", "tise"]}}, r"choices.method: unknown method; did you mean 'ties'"),
        ({"choices": {"method": ["ties", "slerp"]}}, r"choices.method: slerp: sources: slerp takes exactly 1"),
        ({"choices": {"config_from": ["host", "jp"]}}, r"config_from: 'jp' is not one of host, base, math, ja"),
        (
            {"choices": {"method": ["ties", "linear"], "rescale": ["l1", "density"]}},
            r"choices.rescale: makes no difference to ties or linear",
        ),
    ],
)
def test_a_space_that_cannot_be_says_so(write_config: WriteConfig, space: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config({"space": space, "budget": {"candidates": 40}}))
    assert re.search(words, str(caught.value)), caught.value


def test_a_method_without_parameters_has_nothing_to_search_but_choices(models: Path) -> None:
    with pytest.raises(ValueError, match="model_stock has no parameters, so that nothing is left to search"):
        with_space(models, {}, method="model_stock")
    recipe = recipe_of(with_space(models, {"choices": {"row_wise": [True, False]}}, method="model_stock"), 1.0)
    assert recipe.settings.row_wise is False


def test_more_knots_than_the_models_have_blocks_is_reported_when_they_are_known(models: Path) -> None:
    config = with_space(models, {"kind": "interpolated", "knots": 5})
    with pytest.raises(ConfigError, match=r"knots: 5 is more than the models have blocks \(2\)"):
        config.space_for({"math": 2, "ja": 2})
