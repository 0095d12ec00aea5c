"""Search spaces: genomes to numbers and back."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evovlm.errors import ConfigError
from evovlm.recipes.recipe import SourceParameters, UnitValues
from evovlm.recipes.search_space import SPACES, SearchSpace

NAMES = ("math", "ja")
N_BLOCKS = 3


def space(kind: str, **settings: object) -> SearchSpace:
    return SPACES[kind](NAMES, N_BLOCKS, **settings)  # type: ignore[arg-type]


def test_dimensions() -> None:
    assert space("model").dim == 4
    assert space("layer").dim == 2 * 2 * (N_BLOCKS + 2)
    assert space("layer", parameters=("weight",)).dim == 2 * (N_BLOCKS + 2)
    # Protocol 1.1: three 7B sources, layer-wise.
    assert SPACES["layer"](("a", "b", "c"), 32).dim == 204


def test_names_of_genes() -> None:
    assert [gene.name for gene in space("model").genes] == ["math.weight", "math.density", "ja.weight", "ja.density"]
    assert [gene.name for gene in space("layer", parameters=("weight",)).genes[:5]] == [
        "math.weight.embedding",
        "math.weight.block0",
        "math.weight.block1",
        "math.weight.block2",
        "math.weight.head",
    ]


def test_a_search_starts_in_the_middle() -> None:
    found = space("model", weight_range=(-1.0, 2.0))
    assert found.initial.tolist() == [0.5] * 4
    assert found.decode(found.initial)["ja"] == SourceParameters(weight=0.5, density=0.5)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("ranges", [{}, {"weight_range": (-0.5, 1.5), "density_range": (0.2, 0.9)}])
@hypothesis_settings(deadline=None)
@given(data=st.data())
def test_encode_undoes_decode(kind: str, ranges: Mapping[str, tuple[float, float]], data: st.DataObject) -> None:
    found = space(kind, **ranges)
    genome = data.draw(arrays.arrays(np.float64, (found.dim,), elements=st.floats(0, 1)))
    parameters = found.decode(genome)
    again = found.encode(parameters)
    assert np.allclose(again, genome, rtol=0, atol=1e-15)
    if not ranges:
        assert np.array_equal(again, genome)
        assert found.decode(again) == parameters


def test_the_corners_decode_to_the_ends_of_the_range() -> None:
    found = space("model", weight_range=(-0.3, 1.1), density_range=(0.1, 0.7))
    assert found.decode(np.zeros(4))["ja"] == SourceParameters(weight=-0.3, density=0.1)
    assert found.decode(np.ones(4))["ja"] == SourceParameters(weight=1.1, density=0.7)


def test_a_parameter_that_is_not_searched_is_1() -> None:
    found = space("layer", parameters=("weight",))
    assert found.decode(found.initial)["ja"] == SourceParameters(weight=(0.5,) * 5, density=1.0)


def test_fixed_numbers_stay() -> None:
    found = space("model", fixed={"density": 0.4, "ja.density": (0.1, 0.2, 0.3, 0.4, 0.5), "math.weight": 2.0})
    assert [gene.name for gene in found.genes] == ["ja.weight"]
    parameters = found.decode(np.array([0.25]))
    assert parameters["math"] == SourceParameters(weight=2.0, density=0.4)
    assert parameters["ja"] == SourceParameters(weight=0.25, density=(0.1, 0.2, 0.3, 0.4, 0.5))
    assert found.encode(parameters).tolist() == [0.25]
    with pytest.raises(ConfigError, match=r"math\.weight is 1.0, but this space keeps it at 2.0"):
        found.encode(dict(parameters) | {"math": SourceParameters(weight=1.0, density=0.4)})


def test_one_number_for_all_units_is_encoded_in_every_unit() -> None:
    parameters = {name: SourceParameters(weight=0.3, density=0.6) for name in NAMES}
    layer, model = space("layer"), space("model")
    assert set(layer.encode(parameters).tolist()) == {0.3, 0.6}
    by_unit = layer.decode(layer.encode(parameters))
    assert model.encode(by_unit).tolist() == [0.3, 0.6, 0.3, 0.6]


@pytest.mark.parametrize(
    ("kind", "weight", "match"),
    [
        ("model", 1.5, "outside the space's range"),
        ("model", (0.1, 0.2, 0.3, 0.4, 0.5), "one number for all units"),
        ("layer", (0.1, 0.2), "2 numbers for 5 units"),
    ],
)
def test_what_a_space_cannot_hold_is_refused(kind: str, weight: UnitValues, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        space(kind).encode({name: SourceParameters(weight=weight, density=0.5) for name in NAMES})


def test_other_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match="the space is for"):
        space("model").encode({"other": SourceParameters(weight=0.5)})


@pytest.mark.parametrize("genome", [np.zeros(3), np.full(4, 1.1), np.full(4, np.nan), np.zeros((4, 1))])
def test_a_genome_outside_the_cube_is_a_mistake_of_the_caller(genome: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a genome of this space"):
        space("model").decode(genome)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"weight_range": (1.0, 1.0)}, "weight: .* is not a range"),
        ({"density_range": (0.0, 1.2)}, "density: .* leaves"),
        ({"parameters": ("speed",)}, "'speed' is unknown"),
        ({"fixed": {"jp.weight": 1.0}}, "'jp.weight' names no parameter"),
        ({"fixed": {"weight": 1.0, "density": 1.0}}, "search space is empty"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(settings: Mapping[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        space("model", **settings)
