"""Paths through layers as values and as YAML."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.errors import ConfigError
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import ParameterMerge
from evovlm.recipes.source_values import SourceParameters
from evovlm.recipes.writing import recipe_to_yaml

PATH = """\
format: 1
kind: layer_path
host: ./a
sources: {a: ./a, b: org/b}
scale_target: stream
path:
  - [a, 0, 1]
  - [b, 1, 0.93]
"""
HYBRID = """\
format: 1
kind: hybrid
stages:
  ps:
    kind: parameter_merge
    host: ./a
    sources: {a: ./a, b: org/b}
    method: linear
    parameters: {a: {weight: 0.5}, b: {weight: 0.5}}
  path:
    kind: layer_path
    sources: {b: org/b}
    scale_target: pending
    path: [[ps, 0, 1.0], [b, 2, -0.5]]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_recipe(write(folder, text))
    return [line.strip().replace(f"{folder}/", "") for line in str(error.value).splitlines()]


def model_of_two_blocks(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}', encoding="utf-8")


def some_path(*steps: tuple[str, int, float]) -> LayerPath:
    return LayerPath(steps=tuple(LayerStep(source=name, layer=layer, scale=scale) for name, layer, scale in steps))


def test_a_path_is_read_as_written(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, PATH))
    assert isinstance(recipe, LayerPathMerge)
    assert recipe.host == ModelRef(text="./a", origin=tmp_path)
    assert recipe.sources["b"] == ModelRef(text="org/b", origin=tmp_path)
    assert recipe.path == some_path(("a", 0, 1.0), ("b", 1, 0.93))
    assert recipe.scale_target == "stream"


def test_every_problem_of_a_path_is_reported_with_its_line(tmp_path: Path) -> None:
    model_of_two_blocks(tmp_path / "a")
    text = PATH.replace("stream", "straem") + "  - [c, 0, 1]\n  - [a, 2, 1]\n  - [a, 0, .inf]\n  - [a, 1]\nfurther: 1\n"
    assert problems(tmp_path, text) == [
        "recipe.yaml has 6 problems:",
        "recipe.yaml:5: scale_target: input should be 'pending' or 'stream' (found 'straem')",
        "recipe.yaml:9: path[2]: 'c' is not among the sources; known: a, b.",
        "recipe.yaml:10: path[3]: 'a' has 2 blocks, 0 to 1, and no block 2",
        "recipe.yaml:11: path[4]: should be [source, block, scale]: a name, a number from 0 on, and a finite number",
        "recipe.yaml:12: path[5]: should be [source, block, scale]: a name, a number from 0 on, and a finite number",
        "recipe.yaml:13: further: unknown key; known: backbone, chat_template, dtype, format, "
        "generation, host, kind, path, scale_target, sources.",
    ]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("[a, -1, 1.0]", "path[0]: should be [source, block, scale]"),
        ("[a, true, 1.0]", "path[0]: should be [source, block, scale]"),
        ("[a, 0.5, 1.0]", "path[0]: should be [source, block, scale]"),
        ("[a, 0, .nan]", "path[0]: should be [source, block, scale]"),
        ("[a, 0, '1']", "path[0]: should be [source, block, scale]"),
        ("{source: a}", "path[0]: should be [source, block, scale]"),
    ],
)
def test_an_invalid_step_is_refused(tmp_path: Path, step: str, reason: str) -> None:
    text = PATH.split("  - [a, 0, 1]")[0] + f"  - {step}\n"
    assert reason in "\n".join(problems(tmp_path, text))


def test_an_empty_path_is_refused(tmp_path: Path) -> None:
    text = PATH.split("path:\n")[0] + "path: []\n"
    assert problems(tmp_path, text)[1].startswith("recipe.yaml:6: path: list should have at least 1 item")


def test_an_unknown_kind_names_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'layer_path'?" in problems(tmp_path, PATH.replace("layer_path", "layer_paths"))[1]


def test_a_hybrid_has_its_first_stage_among_the_sources_and_as_host(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, HYBRID))
    assert isinstance(recipe, HybridMerge)
    assert isinstance(recipe.ps, ParameterMerge)
    assert recipe.ps.parameters["a"] == SourceParameters(weight=0.5)
    assert recipe.host is None
    merged = ModelRef(text="/somewhere")
    second = recipe.path_merge(merged)
    assert second.host == second.sources["ps"] == merged
    assert second.path == some_path(("ps", 0, 1.0), ("b", 2, -0.5))


def test_the_host_of_a_hybrid_may_be_another_model(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            HYBRID.replace("    sources: {b: org/b}", "    host: org/c\n    sources: {}").replace(", [b, 2, -0.5]", ""),
        )
    )
    assert isinstance(recipe, HybridMerge)
    assert recipe.path_merge(ModelRef(text="/somewhere")).host.text == "org/c"


def test_problems_of_both_stages_are_reported_at_once(tmp_path: Path) -> None:
    text = HYBRID.replace("method: linear", "methot: linear").replace("[ps, 0, 1.0]", "[sp, 0, 1.0]")
    assert problems(tmp_path, text) == [
        "recipe.yaml has 3 problems:",
        "recipe.yaml:4: stages.ps.method: missing",
        "recipe.yaml:8: stages.ps.methot: unknown key; did you mean 'method'?",
        "recipe.yaml:14: stages.path.path[0]: 'sp' is not among the sources; known: b, ps.",
    ]


def test_a_further_source_of_a_hybrid_is_not_called_ps(tmp_path: Path) -> None:
    assert (
        "'ps' is the first stage's result"
        in problems(tmp_path, HYBRID.replace("{b: org/b}\n    scale", "{ps: org/b}\n    scale"))[1]
    )


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["a", "no", "1e3"]), st.integers(0, 99), st.floats(allow_nan=False, allow_infinity=False)
        ),
        min_size=1,
        max_size=8,
    ),
    target=st.sampled_from(["pending", "stream"]),
    in_two_stages=st.booleans(),
)
def test_a_path_survives_being_written_and_read(tmp_path_factory, steps, target, in_two_stages) -> None:
    sources = {name: ModelRef(text=f"org/{index}") for index, name in enumerate(("a", "no", "1e3"))}
    path = some_path(*steps)
    host = ModelRef(text="org/host")
    if in_two_stages:
        ps = ParameterMerge(
            host=host, sources=sources, method="linear", parameters=dict.fromkeys(sources, SourceParameters())
        )
        recipe = HybridMerge(ps=ps, sources=sources, path=path, scale_target=target, host=host)
    else:
        recipe = LayerPathMerge(host=host, sources=sources, path=path, scale_target=target)
    file = tmp_path_factory.mktemp("written") / "recipe.yaml"
    file.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    read = load_recipe(file)
    assert recipe_to_yaml(read) == recipe_to_yaml(recipe)
    assert read.recipe_id == recipe.recipe_id


def test_the_recipe_id_depends_on_path_target_and_models() -> None:
    ref, other = ModelRef(text="org/a"), ModelRef(text="org/b")
    recipe = LayerPathMerge(
        host=ref, sources={"a": ref, "b": other}, path=some_path(("a", 0, 1.0)), scale_target="stream"
    )
    same = LayerPathMerge(
        host=ref, sources={"b": other, "a": ref}, path=some_path(("a", 0, 1.0)), scale_target="stream"
    )
    others = [
        LayerPathMerge(host=other, sources=recipe.sources, path=recipe.path, scale_target="stream"),
        LayerPathMerge(host=ref, sources=recipe.sources, path=recipe.path, scale_target="pending"),
        LayerPathMerge(host=ref, sources=recipe.sources, path=some_path(("a", 0, 0.5)), scale_target="stream"),
        LayerPathMerge(host=ref, sources=recipe.sources, path=some_path(("b", 0, 1.0)), scale_target="stream"),
        LayerPathMerge(host=ref, sources={"a": ref, "b": ref}, path=recipe.path, scale_target="stream"),
    ]
    assert same.recipe_id == recipe.recipe_id
    assert len({each.recipe_id for each in (recipe, *others)}) == 6


def test_minus_zero_is_zero() -> None:
    assert str(LayerStep(source="a", layer=0, scale=-0.0).scale) == "0.0"


@pytest.mark.parametrize(
    "wrong", [{"layer": -1}, {"layer": 0, "scale": float("nan")}, {"layer": 0, "scale": float("inf")}]
)
def test_a_step_outside_its_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="path"):
        LayerStep(source="a", **wrong)


def test_a_path_through_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"path\[1\]: 'c' is not among the sources"):
        LayerPathMerge(
            host=ModelRef(text="org/a"),
            sources={"a": ModelRef(text="org/a")},
            path=some_path(("a", 0, 1.0), ("c", 0, 1.0)),
            scale_target="stream",
        )


def test_a_path_that_no_model_has_the_blocks_for_is_refused() -> None:
    steps = (LayerStep(source="a", layer=0),) * 2000
    assert len(LayerPath(steps=steps)) == 2000
    with pytest.raises(ConfigError, match="path: 2001 hops; a model has at most 2000 blocks"):
        LayerPath(steps=(*steps, steps[0]))
