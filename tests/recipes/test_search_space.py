"""Search spaces: genomes to numbers and back."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.interpolate import CubicSpline

from evovlm.errors import ConfigError
from evovlm.recipes.search_space import SearchSpace
from evovlm.recipes.source_values import ByComponent, SourceParameters, UnitValues, Values, value_at
from evovlm.recipes.space_kinds import SPACES, search_space
from evovlm.recipes.unit_ties import tied_by_spline
from tests.marks import quick_and_slow

NAMES = ("math", "ja")
N_BLOCKS = 6
HALVES = {name: SourceParameters(weight=0.5, density=0.5) for name in NAMES}


def space(kind: str, n_blocks: int = N_BLOCKS, **settings: object) -> SearchSpace:
    return search_space(kind, NAMES, n_blocks, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "n_blocks", "per_parameter"),
    [
        ("model", 32, 1),
        ("layer", 32, 34),
        ("interpolated", 32, 5),
        ("grouped", 32, 10),
        ("component", 32, 4),
        # Attention and MLP have blocks alone, norms the final norm too, and the rest is embedding and head.
        ("component x layer", 32, 32 + 32 + 33 + 2),
        ("component x interpolated", 32, 5 + 5 + 5 + 2),
        ("component x grouped", 30, 8 + 8 + 9 + 2),
    ],
)
def test_dimensions(kind: str, n_blocks: int, per_parameter: int) -> None:
    assert space(kind, n_blocks).dim == 2 * 2 * per_parameter
    assert space(kind, n_blocks, parameters=("weight",)).dim == 2 * per_parameter


def test_the_published_dimensions() -> None:
    # Protocol 1.1: three 7B sources, layer-wise; section 4: five sources, five knots, weight and density.
    assert search_space("layer", ("a", "b", "c"), 32).dim == 204
    assert search_space("interpolated", ("a", "b", "c", "d", "e"), 32, options={"knots": 5}).dim == 50


def test_every_kind_of_units_comes_with_its_components_apart() -> None:
    assert len(SPACES) % 2 == 0
    assert sum(kind.by_component for kind in SPACES.values()) == len(SPACES) // 2


def test_names_of_genes() -> None:
    def names(kind: str, **settings: object) -> list[str]:
        return [
            gene.name.removeprefix("math.weight")
            for gene in space(kind, 3, **settings).genes
            if gene.name.startswith("math.weight")
        ]

    assert names("model") == [""]
    assert names("layer") == [".embedding", ".block0", ".block1", ".block2", ".head"]
    assert names("interpolated", options={"knots": 2}) == [".knot0", ".knot1"]
    assert names("grouped", options={"group": 2}) == [".embedding", ".blocks0-1", ".blocks2-2", ".head"]
    assert names("component") == [".attention", ".mlp", ".norms", ".rest"]
    assert names("component x layer")[-6:] == [
        ".norms.block0", ".norms.block1", ".norms.block2", ".norms.head", ".rest.embedding", ".rest.head",
    ]  # fmt: skip
    assert [gene.name for gene in space("model").genes] == ["math.weight", "math.density", "ja.weight", "ja.density"]


@pytest.mark.parametrize("kind", SPACES)
def test_a_search_starts_in_the_middle(kind: str) -> None:
    found = space(kind, ranges={"weight": (-1.0, 2.0)})
    assert found.initial.tolist() == [0.5] * found.dim
    assert found.gap(found.decode(found.initial), HALVES).size == 0


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("ranges", [{}, {"weight": (-0.5, 1.5), "ja.weight": (0.1, 0.3), "density": (0.2, 0.9)}])
@pytest.mark.parametrize("n_blocks", quick_and_slow([5, 13, 6], quick=1))
@hypothesis_settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_encode_undoes_decode(
    kind: str, ranges: Mapping[str, tuple[float, float]], n_blocks: int, data: st.DataObject
) -> None:
    found = space(kind, n_blocks, ranges=ranges)
    genome = data.draw(arrays.arrays(np.float64, (found.dim,), elements=st.floats(0, 1)))
    parameters = found.decode(genome)
    again = found.decode(found.encode(parameters))
    assert found.gap(parameters, again).size < 1e-9
    if all(len(row) == 1 for part in found.parts for row in part.tie.rows):
        # What lies between knots is solved for; all else comes back to the last bit.
        assert again == parameters
        assert np.allclose(found.encode(parameters), genome, rtol=0, atol=1e-15)


def test_the_corners_decode_to_the_ends_of_the_range() -> None:
    found = space("model", ranges={"weight": (-0.3, 1.1), "density": (0.1, 0.7), "math.weight": (2.0, 3.0)})
    assert found.decode(np.zeros(4))["ja"] == SourceParameters(weight=-0.3, density=0.1)
    assert found.decode(np.ones(4))["ja"] == SourceParameters(weight=1.1, density=0.7)
    assert found.decode(np.zeros(4))["math"] == SourceParameters(weight=2.0, density=0.1)


def test_a_parameter_that_is_not_searched_is_at_its_default() -> None:
    found = space("layer", 3, parameters=("weight",))
    assert found.decode(found.initial)["ja"] == SourceParameters(weight=(0.5,) * 5, density=1.0)


def test_every_parameter_of_a_source_can_be_searched() -> None:
    found = space("model", parameters=("weight", "gamma", "epsilon"), ranges={"epsilon": (0.1, 0.2)})
    assert found.decode(np.ones(6))["ja"] == SourceParameters(weight=1.0, density=1.0, gamma=0.1, epsilon=0.2)


def test_fixed_numbers_stay() -> None:
    by_unit = (0.1, 0.2, 0.3, 0.4, 0.5)
    found = space("model", 3, fixed={"density": 0.4, "ja.density": by_unit, "math.weight": 2.0})
    assert [gene.name for gene in found.genes] == ["ja.weight"]
    parameters = found.decode(np.array([0.25]))
    assert parameters["math"] == SourceParameters(weight=2.0, density=0.4)
    assert parameters["ja"] == SourceParameters(weight=0.25, density=by_unit)
    assert found.encode(parameters).tolist() == [0.25]
    with pytest.raises(ConfigError, match=r"math\.weight is 1.0, but this space keeps it at 2.0"):
        found.encode(dict(parameters) | {"math": SourceParameters(weight=1.0, density=0.4)})


@pytest.mark.parametrize("kind", SPACES)
def test_one_number_for_all_is_of_every_space(kind: str) -> None:
    parameters = {name: SourceParameters(weight=0.3, density=0.6) for name in NAMES}
    found = space(kind)
    assert found.gap(parameters, found.decode(found.encode(parameters))).size < 1e-9
    one = 0.3
    apart = {
        name: SourceParameters(weight=ByComponent(attention=one, mlp=one, norms=one, rest=one), density=0.6)
        for name in NAMES
    }
    assert np.allclose(found.encode(apart), found.encode(parameters))


def test_the_spline_is_scipys_through_knots_at_even_distances() -> None:
    knots = [0.2, 0.9, 0.1, 0.5, 0.4]
    found = space("interpolated", 12, parameters=("weight",), ranges={"weight": (-1.0, 2.0)})
    genome = (np.array([*knots, *knots]) + 1.0) / 3.0
    weights = found.decode(genome)["ja"].weight
    wanted = CubicSpline(np.linspace(0, 11, 5), knots)(np.arange(12))
    assert isinstance(weights, tuple)
    assert np.allclose(weights[1:-1], wanted, rtol=0, atol=1e-9)
    # Protocol, section 4: the embedding takes the first block's, the head (and final norm) the last's.
    assert (weights[0], weights[-1]) == (weights[1], weights[-2])


def test_a_spline_is_clipped_to_the_range() -> None:
    found = space("interpolated", 12, parameters=("weight",))
    weights = found.decode(np.array([0.0, 1.0, 0.0, 1.0, 0.0] * 2))["ja"].weight
    assert isinstance(weights, tuple)
    assert (min(weights), max(weights)) == (0.0, 1.0)
    beyond = CubicSpline(np.linspace(0, 11, 5), [0, 1, 0, 1, 0])(np.arange(12))
    assert beyond.max() > 1.0


@pytest.mark.parametrize(("knots", "wanted"), [(2, [0, 1, 2, 3]), (3, [0, 1, 4, 9]), (4, [0, 1, 8, 27])])
def test_few_knots_make_a_line_and_a_parabola(knots: int, wanted: list[int]) -> None:
    tie = tied_by_spline(4, knots=knots)
    power = knots - 1
    numbers = [float(at**power) for at in np.linspace(0, 3, knots)]
    spread = tie.spread(numbers, low=-100, high=100)
    assert isinstance(spread, tuple)
    assert np.allclose(spread[1:-1], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("knots", range(2, 14))
def test_every_number_of_a_spline_makes_a_difference(knots: int) -> None:
    found = space("interpolated", 13, parameters=("weight",), options={"knots": knots})
    genome = np.linspace(0.3, 0.7, found.dim)
    assert np.allclose(found.encode(found.decode(genome)), genome, rtol=0, atol=1e-7)


def test_more_knots_than_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"knots: 5 is more than the models have blocks \(4\)"):
        space("interpolated", 4)


def test_components_have_numbers_of_their_own_in_the_units_that_have_them() -> None:
    found = space("component x layer", 3, parameters=("weight",))
    weight = found.decode(np.linspace(0, 1, found.dim))["math"].weight
    places = [
        ("attention", 1), ("attention", 2), ("attention", 3), ("mlp", 1), ("mlp", 2), ("mlp", 3),
        ("norms", 1), ("norms", 2), ("norms", 3), ("norms", 4), ("rest", 0), ("rest", 4),
    ]  # fmt: skip
    numbers = [value_at(weight, unit, component) for component, unit in places]
    assert np.allclose(numbers, np.linspace(0, 1, found.dim)[:12])


def test_groups_share_a_number() -> None:
    found = space("grouped", 5, parameters=("weight",), options={"group": 2})
    weight = found.decode(np.array([0.1, 0.2, 0.3, 0.4, 0.5] * 2))["ja"].weight
    assert weight == (0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.5)


@pytest.mark.parametrize(
    ("kind", "weight", "nearest"),
    [
        ("model", (0.1, 0.2, 0.3, 0.4, 1.0), 0.4),
        ("model", (0.3, 0.3, 0.3, 0.3, 3.0), 0.44),
        ("grouped", (0.1, 0.2, 0.4, 0.6, 0.5), (0.1, 0.4, 0.4, 0.4, 0.5)),
        ("interpolated", (0.0, 0.1, 0.5, 0.9, 0.0), (0.1, 0.1, 0.5, 0.9, 0.9)),
        ("layer", (-0.5, 0.2, 0.3, 0.4, 1.5), (0.0, 0.2, 0.3, 0.4, 1.0)),
    ],
)
def test_the_nearest_is_that_by_least_squares_within_the_range(
    kind: str, weight: UnitValues, nearest: UnitValues
) -> None:
    options = {"interpolated": {"knots": 2}}.get(kind, {})
    found = space(kind, 3, parameters=("weight",), options=options)
    asked = {name: SourceParameters(weight=weight) for name in NAMES}
    with pytest.raises(ConfigError, match=r"math\.weight \(.*\): .* is not in this space"):
        found.encode(asked)
    taken = found.decode(found.nearest(asked))
    wanted = {name: SourceParameters(weight=nearest) for name in NAMES}
    if kind == "interpolated":
        line = np.linspace(0, 1, 3)
        units = np.array([line[0], *line, line[-1]])
        slope, start = np.polyfit(units, np.array(weight), 1)
        wanted = {name: SourceParameters(weight=tuple((start + slope * units).tolist())) for name in NAMES}
    assert found.gap(taken, wanted).size < 1e-9


def test_components_that_share_a_number_have_the_mean_of_theirs() -> None:
    apart: Values = ByComponent(attention=0.1, mlp=0.3, norms=0.8, rest=0.6)
    found = space("layer", 2, parameters=("weight",))
    taken = found.decode(found.nearest({name: SourceParameters(weight=apart) for name in NAMES}))["ja"].weight
    assert np.allclose(np.array(taken), [0.6, 0.4, 0.4, 0.7])


def test_the_widest_gap_is_reported() -> None:
    found = space("component x layer", 3, parameters=("weight",))
    genome = found.initial
    other = genome.copy()
    other[4] = 0.9
    gap = found.gap(found.decode(genome), found.decode(other))
    assert gap.place == "math.weight (mlp, block1)"
    assert (gap.given, gap.taken, gap.size) == pytest.approx((0.5, 0.9, 0.4))


def test_what_no_tensor_has_makes_no_difference() -> None:
    found = space("component x layer", 3, parameters=("weight",))
    numbers = dict.fromkeys(("attention", "mlp", "norms", "rest"), (0.5,) * 5)
    numbers["attention"] = (9.0, 0.5, 0.5, 0.5, 9.0)
    numbers["norms"] = (9.0, 0.5, 0.5, 0.5, 0.5)
    numbers["rest"] = (0.5, 9.0, 9.0, 9.0, 0.5)
    asked = {name: SourceParameters(weight=ByComponent(**numbers)) for name in NAMES}  # type: ignore[arg-type]
    assert found.encode(asked).tolist() == [0.5] * found.dim


def test_other_sources_and_lists_of_another_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="the space is for"):
        space("model").encode({"other": SourceParameters(weight=0.5)})
    with pytest.raises(ConfigError, match="2 numbers for 8 units"):
        space("layer").nearest({name: SourceParameters(weight=(0.1, 0.2)) for name in NAMES})


@pytest.mark.parametrize("genome", [np.zeros(3), np.full(4, 1.1), np.full(4, np.nan), np.zeros((4, 1))])
def test_a_genome_outside_the_cube_is_a_mistake_of_the_caller(genome: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a genome of this space"):
        space("model").decode(genome)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"ranges": {"weight": (1.0, 1.0)}}, "weight: .* is not a range"),
        ({"ranges": {"ja.weight": (1.0, 0.5)}}, r"ja\.weight: \[1, 0\.5\] is not a range"),
        ({"ranges": {"weight": (0.0, float("inf"))}}, "is not a range"),
        ({"ranges": {"density": (0.0, 1.2)}}, "density: .* leaves"),
        ({"ranges": {"jp.weight": (0.0, 1.2)}}, "ranges: 'jp.weight' names no parameter"),
        ({"parameters": ("speed",)}, "'speed' is unknown"),
        ({"fixed": {"jp.weight": 1.0}}, "'jp.weight' names no parameter"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(settings: Mapping[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        space("model", **settings)
