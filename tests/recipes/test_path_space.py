"""The space of paths: what a genome means, where a search starts, and which paths a genome can be found for."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import ConfigError
from evovlm.recipes.candidate import Genome
from evovlm.recipes.kinds import HybridMerge, PathTemplate
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.path_space import SCALES, PathSpace
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.seeding import generator

A, B = ModelRef(text="org/a"), ModelRef(text="org/b")
PS = ParameterMerge(host=A, sources={"a": A}, method="linear", parameters={"a": SourceParameters()})


def space_over(blocks: Mapping[str, int], **settings: object) -> PathSpace:
    """Return the space of paths through models of as many blocks, of which `a` is the host."""
    sources = {name: ModelRef(text=f"org/{name}") for name in blocks}
    template = PathTemplate(sources=sources, host=ModelRef(text="org/a"), scale_target="pending")
    return PathSpace(template=template, blocks=blocks, **settings)  # type: ignore[arg-type]


def path_space(
    *,
    scales: str = "per_position",
    repetitions: int = 2,
    scale_range: tuple[float, float] = (0.5, 2.0),
) -> PathSpace:
    return space_over({"a": 3, "b": 4}, repetitions=repetitions, scales=scales, scale_range=scale_range)


@st.composite
def spaces(draw: st.DrawFn, *, scales: tuple[str, ...] = tuple(SCALES)) -> PathSpace:
    blocks = {name: draw(st.integers(2, 4)) for name in draw(st.sampled_from(["a", "ab", "ba", "cab"]))}
    return space_over(
        blocks,
        repetitions=draw(st.integers(1, 3)),
        scales=draw(st.sampled_from(scales)),
        scale_range=draw(st.sampled_from([(0.5, 1.5), (0.0, 1.0), (-1.0, 3.0), (1.0, 1.25)])),
    )


def genomes(space: PathSpace) -> st.SearchStrategy[Genome]:
    return st.lists(st.floats(0, 1), min_size=space.dim, max_size=space.dim).map(np.array)


def blocks_of(path: LayerPath) -> list[tuple[str, int]]:
    return [(step.source, step.layer) for step in path.steps]


def in_full(space: PathSpace) -> LayerPath:
    return space.decode(np.where(space.levels == 2, 1.0, space.initial)).path


@given(data=st.data(), space=spaces())
def test_every_genome_is_a_path_from_the_host_s_first_block_to_its_last(data: st.DataObject, space: PathSpace) -> None:
    genome = data.draw(genomes(space))
    path = space.decode(genome).path
    assert blocks_of(path)[0] == ("a", 0)
    assert blocks_of(path)[-1] == ("a", space.blocks["a"] - 1)
    assert len(path) == 2 + int(np.sum(genome[space.levels == 2] > 0.5))
    low, high = (1.0, 1.0) if space.scales == "none" else space.scale_range
    assert all(low <= step.scale <= high for step in path.steps)


@given(data=st.data(), space=spaces(scales=("none", "per_position")))
def test_a_path_encodes_to_a_genome_that_decodes_to_it(data: st.DataObject, space: PathSpace) -> None:
    recipe = space.decode(data.draw(genomes(space)))
    path, genome = recipe.path, space.encode(recipe)
    assert np.all((genome >= 0) & (genome <= 1))
    again = space.decode(genome).path
    assert blocks_of(again) == blocks_of(path)
    for step, same in zip(again.steps, path.steps, strict=True):
        assert math.isclose(step.scale, same.scale, abs_tol=1e-12)


@given(space=spaces())
def test_a_search_starts_from_the_unchanged_host_with_all_scales_1(space: PathSpace) -> None:
    start = space.decode(space.initial).path
    assert blocks_of(start) == [("a", layer) for layer in range(space.blocks["a"])]
    assert all(math.isclose(step.scale, 1.0) for step in start.steps)


def test_positions_are_the_sources_blocks_in_order_repeated_with_the_host_s_ends_at_the_ends() -> None:
    a, b = [("a", layer) for layer in range(3)], [("b", layer) for layer in range(4)]
    assert blocks_of(in_full(path_space())) == [a[0], a[1], *b, *a, *b, a[2]]


def test_the_order_of_the_sources_counts() -> None:
    swapped = space_over({"b": 4, "a": 3}, repetitions=1)
    a, b = [("a", layer) for layer in range(3)], [("b", layer) for layer in range(4)]
    assert blocks_of(in_full(swapped)) == [a[0], *b, a[1], a[2]]
    assert blocks_of(in_full(path_space(repetitions=1))) == [a[0], a[1], *b, a[2]]


def test_the_paper_s_space_has_192_positions_and_4096_pairs() -> None:
    def dim(scales: str, blocks: int = 32, repetitions: int = 3) -> int:
        return space_over({"a": blocks, "b": blocks}, repetitions=repetitions, scales=scales).dim

    assert [dim(scales) for scales in SCALES] == [190, 190 + 192, 190 + 4096, 190 + 41]
    # The net's size does not depend on the length of the path.
    assert dim("network", 40, 4) - (2 * 40 * 4 - 2) == 41


def test_the_host_s_first_pass_starts_2_sigma_above_one_half_and_all_else_2_below() -> None:
    space = path_space()
    assert space.initial[:12].tolist() == [0.7, *[0.3] * 11]
    even = space_over({"a": 3, "b": 4}, repetitions=2, rest_start=0.0)
    assert even.initial[:12].tolist() == [0.7, *[0.5] * 11]
    far = space_over({"a": 3, "b": 4}, sigma=0.4)
    assert far.initial[0] == 1.0


def test_a_gene_of_one_half_is_not_on_the_path() -> None:
    space = path_space(scales="none")
    assert len(space.decode(np.full(space.dim, 0.5)).path) == 2


def test_a_pair_s_scale_is_that_of_the_block_it_leaves_and_the_block_it_enters() -> None:
    space = path_space(scales="pairwise", scale_range=(0.0, 1.0), repetitions=1)
    genome = np.where(space.levels == 2, 0.0, np.arange(space.dim) / 100)
    genome[[0, 2]] = 1.0
    path = space.decode(genome).path
    assert blocks_of(path) == [("a", 0), ("a", 1), ("b", 1), ("a", 2)]
    layers = list(space.layers)
    wanted = [1.0] + [genome[5 + layers.index(i) * 7 + layers.index(j)] for i, j in itertools.pairwise(blocks_of(path))]
    assert [step.scale for step in path.steps] == wanted


def test_a_net_gives_the_same_hop_at_another_time_another_scale() -> None:
    space = path_space(scales="network", repetitions=3)
    genome = np.where(space.levels == 2, 0.9, generator("net", 0).random(space.dim))
    scales = [step.scale for step in space.decode(genome).path.steps]
    assert scales[0] == 1.0
    assert len({round(scale, 9) for scale in scales}) > len(space.layers)
    assert [step.scale for step in space.decode(np.where(space.levels == 2, 0.9, 0.5)).path.steps] == [1.0] * len(
        scales
    )


@pytest.mark.parametrize("scales", ["pairwise", "network"])
def test_scales_that_a_path_does_not_state_are_not_encoded(scales: str) -> None:
    space = path_space(scales=scales)
    with pytest.raises(ConfigError, match=f"does not determine the genes of '{scales}'"):
        space.encode(space.decode(space.initial))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("b", 0, 1.0), ("a", 2, 1.0)], "does not begin with the first block of 'a'"),
        ([("a", 0, 1.0), ("b", 1, 1.0)], "end with its last"),
        ([("a", 0, 1.0)], "end with its last"),
        ([("a", 0, 1.0), ("b", 1, 1.0), ("b", 0, 1.0), ("b", 0, 1.0), ("a", 2, 1.0)], r"path\[3\].*cannot come here"),
        ([("a", 0, 1.0), ("a", 2, 2.5)], r"path\[1\].*2.5 is outside"),
    ],
)
def test_a_path_of_no_such_space_is_not_encoded(steps: list[tuple[str, int, float]], message: str) -> None:
    path = LayerPath(steps=tuple(LayerStep(source=source, layer=layer, scale=scale) for source, layer, scale in steps))
    with pytest.raises(ConfigError, match=message):
        path_space().encode(path_space().template.recipe(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": {"b": 4}}, "'a' is not among the sources b"),
        ({"blocks": {"a": 1, "b": 4}}, "has one block"),
        ({"repetitions": 0}, "below 1"),
        ({"scales": "all"}, "Choose one of none, per_position"),
        ({"scale_range": (1.5, 2.0)}, "does not contain 1"),
        ({"scale_range": (1.0, 1.0)}, "does not contain 1"),
    ],
)
def test_what_is_not_a_space_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(path_space(), **changes)  # type: ignore[arg-type]


def test_a_genome_of_another_shape_or_outside_the_cube_is_refused() -> None:
    space = path_space()
    for genome in (space.initial[:-1], space.initial + 0.5):
        with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
            space.decode(genome)


def test_a_template_makes_recipes_of_paths() -> None:
    path = LayerPath(steps=(LayerStep(source="a", layer=0),))
    template = PathTemplate(host=A, sources={"b": B, "a": A}, scale_target="pending")
    assert template.source_names == ("b", "a")
    assert template.host_source == "a"
    assert template.recipe(path) == LayerPathMerge(host=A, sources={"b": B, "a": A}, path=path, scale_target="pending")


def test_a_template_with_a_first_stage_has_its_result_as_first_source_and_host() -> None:
    path = LayerPath(steps=(LayerStep(source="ps", layer=0),))
    template = PathTemplate(sources={"b": B}, scale_target="stream", ps=PS)
    assert template.source_names == ("ps", "b")
    assert template.host_source == "ps"
    assert template.recipe(path) == HybridMerge(ps=PS, sources={"b": B}, path=path, scale_target="stream")
    assert PathTemplate(sources={"b": B}, scale_target="stream", ps=PS, host=B).host_source == "b"


def test_a_template_whose_host_is_not_a_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="'org/a' is not among the sources"):
        PathTemplate(host=A, sources={"b": B}, scale_target="stream")
    with pytest.raises(ConfigError, match="host: missing"):
        PathTemplate(sources={"b": B}, scale_target="stream")
    with pytest.raises(ConfigError, match="'ps' is the first stage's result"):
        PathTemplate(sources={"ps": B}, scale_target="stream", ps=PS)
