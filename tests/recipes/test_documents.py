"""Recipes as YAML."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from evovlm.errors import ConfigError
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, ParameterMerge
from evovlm.recipes.source_values import SourceParameters, value_at
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.recipes.yaml_text import read_yaml, scalar_text

GOOD = """\
format: 1
kind: parameter_merge
base: org/base
host: org/vlm@main
sources:
  vlm: org/vlm@main
  ja: ./ja
method: dare_ties
settings: {rescale: density, normalize: false, lambda: 1.0}
seed: 42
vocabulary: host
parameters:
  vlm: {weight: 0.7, density: 0.9}
  ja: {weight: [0.5, 6e-1, 1], density: 1}
"""
SOME = ("linear", "dare_ties", "ties")


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_recipe(write(folder, text), methods=SOME)
    return [line.strip().replace(f"{folder}/", "") for line in str(error.value).splitlines()]


def test_a_recipe_is_read_as_written(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), methods=SOME)
    assert recipe.base == ModelRef(text="org/base", origin=tmp_path)
    assert recipe.sources["ja"] == ModelRef(text="./ja", origin=tmp_path)
    assert recipe.settings == MergeSettings(rescale="density", normalize=False, lambda_=1.0)
    assert recipe.parameters["ja"] == SourceParameters(weight=(0.5, 0.6, 1.0), density=1.0)
    assert (recipe.seed, recipe.vocabulary, recipe.method) == (42, "host", "dare_ties")


def test_every_problem_is_reported_with_line_and_key(tmp_path: Path) -> None:
    text = (
        GOOD.replace("seed", "sede")
        .replace("dare_ties", "dare_tie")
        .replace("lambda", "lamda")
        .replace("vocabulary: host", "vocabulary: both")
        .replace("weight: 0.7", "wieght: 0.7")
        .replace("6e-1", "high")
    )
    found = problems(tmp_path, text)
    assert found[0] == "recipe.yaml has 6 problems:"
    assert found[1:] == [
        "recipe.yaml:8: method: unknown method; did you mean 'dare_ties'? (found 'dare_tie')",
        "recipe.yaml:9: settings.lamda: unknown key; did you mean 'lambda'?",
        "recipe.yaml:10: sede: unknown key; did you mean 'seed'?",
        "recipe.yaml:11: vocabulary: input should be 'host', 'base_rows' or 'union' (found 'both')",
        "recipe.yaml:13: parameters.vlm.wieght: unknown key; did you mean 'weight'?",
        "recipe.yaml:14: parameters.ja.weight: should be a number, or a list with one number per unit "
        "(embedding, each block, head)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("  ja: {weight", "  jp: {weight", "parameters: 'jp' is not among the sources; known: ja, vlm"),
        ("  ja: {weight: [0.5, 6e-1, 1], density: 1}\n", "", "parameters: missing for ja"),
        ("density: 1}", "density: [1, 1]}", "parameters: lists of [2, 3] numbers"),
        ("density: 1}", "density: 1.5}", "parameters.ja.density: should be in [0, 1]"),
        ("weight: 0.7", "weight: yes", "parameters.vlm.weight: should be a number"),
        ("weight: 0.7", "weight: true", "parameters.vlm.weight: should be a number"),
        ("weight: 0.7", "weight: .nan", "parameters.vlm.weight: should be a number"),
        ("seed: 42", "seed: 4.5", "seed: input should be a valid integer"),
        ("seed: 42", "seed: '42'", "seed: input should be a valid integer"),
        ("format: 1\n", "", "format: missing"),
        ("format: 1\n", "format: 2\n", "format: input should be 1"),
        ("format: 1\n", "format: true\n", "format: input should be 1 (found True)"),
        ("format: 1\n", "format: 1.0\n", "format: input should be 1 (found 1.0)"),
        ("kind: parameter_merge", "kind: parameter_marge", "kind: unknown kind 'parameter_marge'; did you mean"),
        ("  ja: ./ja", "  ja: [a]", "sources.ja: input should be a valid string"),
        ("lambda: 1.0", "lambda: .inf", "settings.lambda: input should be a finite number"),
        ("  ja: ./ja", "  j.a: ./ja", "sources.j.a: string should match pattern"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, old: str, new: str, match: str) -> None:
    assert old in GOOD
    assert any(match in line for line in problems(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\nb: {c: 1, c: 2}\na: 3\n", "recipe.yaml:2: 'c' was already given in line 2."),
        ("a: 1\nb: {c: 1, c: 2}\na: 3\n", "recipe.yaml:3: 'a' was already given in line 1."),
        ("a: [1\n", "not YAML"),
        ("a: 1\n---\nb: 2\n", "recipe.yaml:2: a second document begins here (---)"),
        ("a: !!python/object:os.system x\n", "the tag !!python/object:os.system is not supported"),
        ("a: &x [*x]\n", "contains itself"),
        ("", "the file: should hold keys and their values"),
        ("- 1\n", "the file: should hold keys and their values"),
    ],
)
def test_what_is_not_a_recipe_is_named(tmp_path: Path, text: str, match: str) -> None:
    assert any(match in line for line in problems(tmp_path, text))


def test_a_file_that_declares_more_than_it_contains_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    for text, match in (("\n".join(lines), "aliases"), ("[" * 5000, "nested too deeply")):
        (tmp_path / "large.yaml").write_text(text)
        with pytest.raises(ConfigError, match=match):
            load_recipe(tmp_path / "large.yaml", methods=SOME)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: this file does not exist"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    path = write(tmp_path, "[no, on, 1e-3, 010, 12:30, ~, true, 0x1f, -2, .5, 2026-01-01]")
    assert read_yaml(path) == ["no", "on", 0.001, "010", "12:30", None, True, "0x1f", -2, 0.5, "2026-01-01"]


@hypothesis_settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_text_survives_as_a_scalar(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("yaml") / "recipe.yaml"
    path.write_text(f"key: {scalar_text(text)}\n", encoding="utf-8")
    assert read_yaml(path) == {"key": text}


numbers = st.floats(-2, 2, allow_nan=False)
shares = st.floats(0, 1)


@hypothesis_settings(deadline=None)
@given(
    weights=st.tuples(numbers, st.lists(numbers, min_size=4, max_size=4).map(tuple)),
    densities=st.tuples(shares, st.lists(shares, min_size=4, max_size=4).map(tuple)),
    settings=st.builds(
        MergeSettings,
        rescale=st.sampled_from(["density", "l1", "none"]),
        normalize=st.sampled_from([None, True, False]),
        lambda_=numbers,
    ),
    seed=st.integers(0, 2**64),
    vocabulary=st.sampled_from([None, "host", "base_rows"]),
    base=st.sampled_from([None, "org/base", "zoo:base", "./a b", "1e3"]),
)
def test_what_is_written_is_read_back(
    weights: tuple[float, tuple[float, ...]],
    densities: tuple[float, tuple[float, ...]],
    settings: MergeSettings,
    seed: int,
    vocabulary: str | None,
    base: str | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("recipes")
    recipe = ParameterMerge(
        base=ModelRef(text=base, origin=folder) if base else None,
        host=ModelRef(text="org/host", origin=folder),
        sources={"true": ModelRef(text="日本語", origin=folder), "1": ModelRef(text="null", origin=folder)},
        method="dare_ties",
        settings=settings,
        seed=seed,
        vocabulary=vocabulary,  # type: ignore[arg-type]
        parameters={
            "1": SourceParameters(weight=weights[0], density=densities[1]),
            "true": SourceParameters(weight=weights[1], density=densities[0]),
        },
    )
    again = load_recipe(write(folder, recipe_to_yaml(recipe)))
    assert again == recipe
    assert again.recipe_id == recipe.recipe_id


def test_local_paths_are_rewritten_for_another_folder(tmp_path: Path) -> None:
    (tmp_path / "configs" / "ja").mkdir(parents=True)
    recipe = load_recipe(write(tmp_path / "configs", GOOD))
    (tmp_path / "runs").mkdir()
    text = recipe_to_yaml(recipe, folder=tmp_path / "runs")
    assert "ja: ../configs/ja\n" in text
    assert "base: org/base\n" in text
    again = load_recipe(write(tmp_path / "runs", text))
    assert again.sources["ja"].resolve().resolve() == tmp_path / "configs" / "ja"
    assert again.recipe_id == recipe.recipe_id


def without_host(folder: Path) -> Path:
    return write(folder, GOOD.replace("host: org/vlm@main\n", "").replace("  vlm: org/vlm@main", "  vlm: ./vlm"))


def test_the_host_is_the_base_unless_given(tmp_path: Path) -> None:
    assert load_recipe(without_host(tmp_path)).host.text == "org/base"


def test_the_host_is_the_only_vision_language_source(tmp_path: Path) -> None:
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm" / "config.json").write_text(json.dumps({"vision_config": {}}))
    assert load_recipe(without_host(tmp_path)).host.text == "./vlm"


def test_two_vision_language_sources_need_a_host(tmp_path: Path) -> None:
    for name in ("vlm", "ja"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"vision_config": {}}))
    with pytest.raises(ConfigError, match="host: missing, and several sources"):
        load_recipe(without_host(tmp_path))


def test_without_a_base_the_host_must_be_given(tmp_path: Path) -> None:
    path = without_host(tmp_path)
    path.write_text(path.read_text().replace("base: org/base\n", ""))
    with pytest.raises(ConfigError, match="host: missing, and there is no base"):
        load_recipe(path)


def test_numbers_by_component_and_the_later_parameters_go_through_text_and_back(tmp_path: Path) -> None:
    text = """\
format: 1
kind: parameter_merge
base: zoo:base
sources: {a: zoo:math-a}
method: breadcrumbs
settings: {lambda: 0.5, select_topk: 0.25, row_wise: true}
config_from: a
parameters:
  a:
    weight: {attention: 0.5, mlp: [1, 2, 3, 4], norms: 0, rest: 1.5}
    density: 0.9
    gamma: [0.0, 0.01, 0.02, 0.03]
"""
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    numbers = recipe.parameters["a"]
    assert value_at(numbers.weight, 2, "mlp") == 3
    assert value_at(numbers.weight, 2, "attention") == 0.5
    assert value_at(numbers.weight, 0) == 1.5
    assert numbers.gamma == (0.0, 0.01, 0.02, 0.03)
    assert recipe.unit_lengths() == {4}
    assert recipe.config_from == "a"
    (tmp_path / "again.yaml").write_text(recipe_to_yaml(recipe))
    again = load_recipe(tmp_path / "again.yaml")
    assert again.recipe_id == recipe.recipe_id
    assert again.parameters == recipe.parameters
    assert again.settings == recipe.settings


@pytest.mark.parametrize(
    "weight",
    [
        0.5,
        [1, 2, 3.5],
        {"attention": 0.5, "mlp": [1, 2], "norms": 0, "rest": 1.5},
        {"attention": 0.5, "mlp": 1, "norms": 0, "rest": 1.5, "mlp.up_proj.weight": [1, 2]},
    ],
    ids=str,
)
def test_numbers_of_any_form_go_through_plain_values_and_back(weight: object) -> None:
    text = TypeAdapter(SourceParameters)
    read = text.validate_python({"weight": weight})
    plain = json.loads(json.dumps(text.dump_python(read, mode="json")))
    assert plain["weight"] == read.as_values()["weight"] == weight
    assert text.validate_python(plain) == read


def test_a_component_left_out_or_a_number_out_of_range_is_a_problem_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "format: 1\nkind: parameter_merge\nbase: zoo:base\nsources: {a: zoo:math-a}\nmethod: ties\n"
        "parameters: {a: {weight: {mlp: 1}, epsilon: 0.7}}\n"
    )
    with pytest.raises(ConfigError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    assert "attention, mlp, norms, rest" in str(error.value)
    assert "should be in [0, 0.5]" in str(error.value)
