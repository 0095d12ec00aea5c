"""mergekit files: read as recipes, written from recipes, and checked against what mergekit itself makes of them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from evovlm.cli.app import app
from evovlm.errors import ConfigError, OutputExists
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.kinds import Recipe, parameter_merge_only
from evovlm.recipes.layer_path import LayerPathMerge
from evovlm.recipes.mergekit.methods import MERGEKIT_METHODS
from evovlm.recipes.mergekit.values import block_position, gradient_value
from evovlm.recipes.mergekit.writing import recipe_to_mergekit
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, ParameterMerge
from evovlm.recipes.source_values import ByComponent, Component, SourceParameters, Values, name_in_block, value_at
from tests.golden.fixtures import CASES, TENSORS, Case
from tests.golden.mergekit_files import FOLDER, N_BLOCKS, exported, make_configs, place, resolved

RESOLVED = resolved()
FILES = sorted(f"{path.parent.name}/{path.stem}" for path in FOLDER.glob("*/*.yaml"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return make_configs(tmp_path / "models")


def read(folder: Path, text: str) -> ParameterMerge:
    return parameter_merge_only(read_any(folder, text))


def read_any(folder: Path, text: str) -> Recipe:
    path = folder / "file.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read_any(folder, text)
    return [line.strip().replace(f"{folder}/", "") for line in str(error.value).splitlines()]


def cell(tensor: str) -> tuple[int | None, Component]:
    """Return block (None: embedding or head) and component of a tensor."""
    block = re.search(r"layers\.(\d+)\.", tensor)
    kinds: dict[str, Component] = {"norm": "norms", "self_attn": "attention", "mlp": "mlp"}
    return int(block[1]) if block else None, next((kinds[part] for part in kinds if part in tensor), "rest")


def number(values: Values, tensor: str, n_blocks: int) -> float:
    block, component = cell(tensor)
    unit = block + 1 if block is not None else 0 if "embed" in tensor else n_blocks + 1
    return value_at(values, unit, component, name_in_block(tensor))


# ---- what mergekit makes of the same file


@pytest.mark.parametrize("file", sorted(RESOLVED))
def test_every_tensor_has_the_numbers_that_mergekit_resolves(file: str, models: Path) -> None:
    recipe = load_recipe(place(f"{file}.yaml", models))
    method = MERGEKIT_METHODS[recipe.method]
    n_blocks = N_BLOCKS[recipe.host.text.rpartition("/")[2]]
    assert len(RESOLVED[file]) == n_blocks * (11 if "norm" in recipe.host.text else 9) + 3
    for tensor, row in RESOLVED[file].items():
        for name, ref in recipe.sources.items():
            numbers = recipe.parameters[name]
            theirs = dict(row["sources"].get(ref.text, {}))
            if method.weight is not None:
                theirs["weight"] = (row["shared"] if method.weight_is_shared else theirs)[method.weight]
                if theirs["weight"] is None:
                    theirs["weight"] = method.weight_default
            for parameter in {"weight", *method.parameters} & set(theirs):
                assert number(getattr(numbers, parameter), tensor, n_blocks) == theirs[parameter], (tensor, parameter)
        for own, setting in method.settings.items():
            given = getattr(recipe.settings, own)
            if own == "normalize" and given is None:
                given = METHODS[recipe.method].normalize if recipe.method in METHODS else row["shared"][setting.name]
            assert row["shared"][setting.name] == (not given if setting.kind == "inverse" else given)
        if method.rescales:
            assert row["shared"]["rescale"] == (recipe.settings.rescale == "l1")


# Of the files that mergekit computed whole merges from, those that no recipe can state, and why.
REFUSED = {
    "passthrough": "'b' would give final norm and head, and 'a' the embedding",
    "ties_rescale": "rescale: has no equivalent here except false",
    "nuslerp_columns": "nuslerp_row_wise: has no equivalent here except false",
    "nuslerp_columns_base": "nuslerp_row_wise: has no equivalent here except false",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_files_of_computed_merges_are_read_or_refused(case: Case, tmp_path: Path) -> None:
    for name in ("base", "a", "b", "c"):
        (tmp_path / name).mkdir()
        config = {"num_hidden_layers": 2, "model_type": "llama", "dtype": case.stored}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    refusal = REFUSED.get(case.name.partition("-")[0])
    if refusal is not None:
        assert refusal in problems(tmp_path, case.yaml)[1]
        return
    recipe = read(tmp_path, case.yaml)
    row = MERGEKIT_METHODS[case.method]
    for tensor in TENSORS:
        given = case.parameters(tensor)
        # A base that its method takes for one more input is a source like others.
        assert {ref.text for ref in recipe.sources.values()} == set(case.sources(tensor))
        for name, theirs in given.items():
            numbers = next(recipe.parameters[own] for own, ref in recipe.sources.items() if ref.text == name)
            found = {row.weight: numbers.weight, **{each: getattr(numbers, each) for each in row.parameters}}
            merged = dict(case.settings(tensor) if row.weight_is_shared else {}) | dict(theirs)
            for parameter in set(found) & set(merged):
                expected = row.weight_default if merged[parameter] is None else merged[parameter]
                assert number(found[parameter], tensor, 2) == expected


def test_mergekit_ran_every_file() -> None:
    assert sorted(RESOLVED) == [name for name in FILES if not name.startswith("recipes/")]


@pytest.mark.parametrize("file", [name for name in FILES if name.startswith("recipes/")])
def test_what_mergekit_ran_is_what_the_recipe_is_exported_to(file: str, models: Path) -> None:
    stored = file.replace("recipes", "exported")
    assert exported(place(f"{file}.yaml", models)) == (FOLDER / f"{stored}.yaml").read_text()
    assert (
        load_recipe(place(f"{file}.yaml", models)).recipe_id == load_recipe(place(f"{stored}.yaml", models)).recipe_id
    )


def test_defaults_of_normalize_are_the_same_on_both_sides() -> None:
    for name in set(METHODS) & set(MERGEKIT_METHODS):
        if "normalize" in METHODS[name].settings:
            assert MERGEKIT_METHODS[name].averages == METHODS[name].normalize


# ---- reading


def test_the_well_known_slerp_file_is_read(models: Path) -> None:
    recipe = load_recipe(place("by_hand/slerp.yaml", models))
    assert (recipe.method, recipe.base, recipe.host) == ("slerp", recipe.host, ModelRef(text="base", origin=models))
    assert set(recipe.sources) == {"a"}
    weight = recipe.parameters["a"].weight
    assert isinstance(weight, ByComponent)
    assert weight.attention == (0.0, 0.0, 0.5, 0.3, 0.7, 1.0, 1.0)
    assert weight.mlp == (1.0, 1.0, 0.5, 0.7, 0.3, 0.0, 0.0)
    assert (weight.norms, weight.rest) == (0.5, 0.5)


def test_plain_numbers_need_no_model_at_hand(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        "models:\n"
        "  - model: org/base-7b\n"
        "  - {model: org/WizardMath-7B.v1@main, parameters: {weight: 0.5, density: '5e-1'}}\n"
        "  - {model: {model: {path: other/WizardMath-7B.v1, revision: v2}}, parameters: {weight: 0.3}}\n"
        "merge_method: dare_ties\nbase_model: org/base-7b\nname: mine\ndtype: bfloat16\n"
        "parameters: {int8_mask: true}\n",
    )
    assert {name: ref.text for name, ref in recipe.sources.items()} == {
        "WizardMath-7B-v1": "org/WizardMath-7B.v1@main",
        "WizardMath-7B-v1-2": "other/WizardMath-7B.v1@v2",
    }
    assert recipe.settings == MergeSettings(rescale="l1")
    assert recipe.parameters["WizardMath-7B-v1"] == SourceParameters(weight=0.5, density=0.5)
    assert recipe.parameters["WizardMath-7B-v1-2"] == SourceParameters(weight=0.3)
    assert (recipe.base, recipe.host, recipe.vocabulary) == (recipe.host, recipe.host, None)


def test_gradients_of_one_value_stay_one_number(models: Path) -> None:
    recipe = read(
        models,
        "models: [{model: a, parameters: {weight: [0.5, 0.5], density: {filter: '*', value: 0.25}}}]\n"
        "merge_method: ties\nbase_model: base\n",
    )
    assert recipe.parameters["a"] == SourceParameters(weight=0.5, density=0.25)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", ("base", None, None)),
        ("tokenizer_source: base", ("base", "host", None)),
        ("tokenizer_source: union", ("base", "union", None)),
        ("tokenizer: {source: union}", ("base", "union", None)),
        ("tokenizer_source: a", ("a", "host", "base")),
        ("tokenizer_source: base\nchat_template: null", ("base", "host", None)),
        ("tokenizer_source: base\nchat_template: auto", ("base", "host", None)),
    ],
)
def test_the_tokenizer_source_becomes_host_and_vocabulary(
    lines: str, expected: tuple[str, str | None, str | None], models: Path
) -> None:
    text = f"models: [{{model: a, parameters: {{weight: 1}}}}]\nmerge_method: ties\nbase_model: base\n{lines}\n"
    recipe = read(models, text)
    assert (recipe.host.text, recipe.vocabulary, recipe.config_from) == expected


def test_without_a_base_the_first_model_is_the_host(models: Path) -> None:
    text = "models: [{model: b}, {model: a}]\nmerge_method: multislerp\nparameters: {weight: 1}\n"
    recipe = read(models, text)
    assert (recipe.host.text, recipe.base, list(recipe.sources)) == ("b", None, ["b", "a"])
    assert read(models, text + "tokenizer_source: a\n").host.text == "a"


def test_rescaling_of_the_peer_is_l1_unless_turned_off(models: Path) -> None:
    text = "models: [{model: a, parameters: {weight: 1}}]\nmerge_method: della\nbase_model: base\n"
    assert read(models, text).settings.rescale == "l1"
    assert read(models, text + "parameters: {rescale: true}").settings.rescale == "l1"
    assert read(models, text + "parameters: {rescale: off}").settings.rescale == "none"


def test_the_dtype_of_the_result_is_the_recipes_where_it_is_not_the_hosts(models: Path) -> None:
    config = {"num_hidden_layers": 5, "torch_dtype": "bfloat16", "model_type": "mistral"}
    (models / "base" / "config.json").write_text(json.dumps(config))
    text = "models: [{model: a, parameters: {weight: 1}}]\nmerge_method: ties\nbase_model: base\ndtype: float32\n"
    assert read(models, text + "out_dtype: bfloat16\n").dtype is None
    assert read(models, text).dtype == "float32"


TIES = """\
merge_method: ties
base_model: base
models:
  - model: a
    parameters:
      weight: 0.5
  - model: b
    parameters:
      weight: 0.5
dtype: float32
"""
SLICES = """\
merge_method: passthrough
slices:
  - sources:
      - {model: a, layer_range: [0, 3]}
  - sources:
      - {model: a, layer_range: [3, 5]}
dtype: float32
"""


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("b+org/lora", "b+org/lora"),
        ("org/b@v1+org/lora", "org/b@v1+org/lora"),
        ("{model: b, lora: org/lora}", "b+org/lora"),
        ("{model: {path: b}, lora: {path: org/lora, revision: v2}}", "b+org/lora@v2"),
    ],
)
def test_a_model_with_an_adapter_is_a_source(models: Path, written: str, text: str) -> None:
    recipe = read(models, TIES.replace("- model: b", f"- model: {written}"))
    assert {name: ref.text for name, ref in recipe.sources.items()} == {"a": "a", "lora": text}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("method: ties", "method: tise", "1: merge_method: 'tise' has no equivalent here; did you mean 'ties'?"),
        ("method: ties", "method: ramplus_tl", "1: merge_method: 'ramplus_tl' has no equivalent here"),
        ("base_model: base\n", "", "1: base_model: missing; ties needs it."),
        ("dtype: float32", "dtype: float64", "10: dtype: float64 has no equal here; a merge is computed in float32"),
        ("dtype: float32", "dtype: int8", "10: dtype: should be float32, float16"),
        (
            "dtype: float32",
            "chat_template: vicuna",
            "10: chat_template: 'vicuna' is not a template; write auto, the text of a template, or one of alpaca",
        ),
        ("dtype: float32", "modules: {default: {}}", "10: modules: has no equivalent in a recipe"),
        ("dtype: float32", "tokenizer_source: c", "10: tokenizer_source: 'c' is not one of the models"),
        ("dtype: float32", "tokenizer: {source: base, tokens: {x: {source: a}}}", "10: tokenizer.tokens:"),
        ("dtype: float32", "tokeniser_source: base", "unknown key; did you mean 'tokenizer_source'?"),
        (
            "dtype: float32",
            "parameters: {rescale: true, density: 0.5}",
            "10: rescale: has no equivalent here except false",
        ),
        ("dtype: float32", "parameters: {lamda: 2}", "10: lamda: mergekit's ties ignores it here; did you mean"),
        ("dtype: float32", "parameters: {gamma: 0.01}", "10: gamma: mergekit's ties ignores it here"),
        ("dtype: float32", "parameters: {lambda: [1, 2]}", "10: lambda: differs between tensors"),
        ("dtype: float32", "parameters: {normalize: maybe}", "10: should be true or false (found 'maybe')"),
        ("dtype: float32", "evovlm: {sources: {x: c}}", "10: evovlm.sources.x: 'c' is not a source."),
        ("- model: b", "- model: a", "7: model: 'a' is given twice."),
        (
            "- model: b",
            "- model: {model: b, override_architecture: X}",
            "7: models[1].model: override_architecture has no equivalent here",
        ),
        ("      weight: 0.5\ndtype", "      density: 0.5\ndtype", "7: weight: missing for model.embed_tokens.weight"),
        (
            "      weight: 0.5\ndtype",
            "      weight: 0.5\n      normalize: true\ndtype",
            "10: normalize: mergekit's ties",
        ),
        ("weight: 0.5\ndtype", "weight: half\ndtype", "9: should be a number (found 'half')"),
        ("weight: 0.5\ndtype", "weight: 1_000\ndtype", "9: should be a number (found '1_000')"),
        ("weight: 0.5\ndtype", "weight: true\ndtype", "9: should be a number (found True)"),
        ("weight: 0.5\ndtype", "weight: .inf\ndtype", "9: should be a number (found inf)"),
        ("weight: 0.5\ndtype", "weight: [1, {value: 2}]\ndtype", "9: should be an entry {filter: TEXT"),
        ("weight: 0.5\ndtype", "weight: 1\n      density: [1, 1.5]\ndtype", "10: density: 1.125 is not in [0, 1]"),
    ],
)
def test_what_has_no_equal_is_refused_with_its_line(old: str, new: str, expected: str, models: Path) -> None:
    assert TIES.count(old) == 1
    found = problems(models, TIES.replace(old, new))
    assert found[0] == "file.yaml has 1 problem:"
    assert expected in found[1]
    if expected[0].isdigit():
        assert found[1].startswith(f"file.yaml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("model: a, layer_range: [3", "model: b, layer_range: [3", "6: sources: other models than in the first slice"),
        ("[3, 5]", "[2, 5]", "6: layer_range: [2, 5], but here come blocks 3 and following"),
        ("[3, 5]", "[3, 3]", "6: layer_range: [3, 3], but here come blocks 3"),
        ("[3, 5]", "[3, 4]", "6: layer_range: the slices have 4 blocks, 'a' has 5"),
        ("  - sources:\n      - {model: a, layer_range: [3, 5]}\n", "", "4: layer_range: the slices have 3 blocks"),
    ],
)
def test_slices_that_are_not_whole_models_are_refused(old: str, new: str, expected: str, models: Path) -> None:
    text = SLICES.replace("passthrough", "karcher")
    assert old in text
    assert problems(models, text.replace(old, new))[1].startswith(f"file.yaml:{expected}")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[3, 5]", "[3, 3]", "6: layer_range: [3, 3] has no blocks; the end is left out."),
        (
            "model: a, layer_range: [3",
            "model: b, layer_range: [3",
            "6: model: 'b' would give final norm and head, and 'a' the embedding",
        ),
        ("[3, 5]}", "[2, 5]}\nbase_model: b", "7: base_model: 'b' would give the config, and 'a' the embedding"),
        ("[3, 5]}", "[2, 5]}\ntokenizer_source: union", "7: tokenizer_source: a path keeps the tokenizer"),
        (
            "[3, 5]}",
            "[2, 5]}\n      - {model: b, layer_range: [2, 5]}",
            "5: sources: passthrough takes 1 model in a slice",
        ),
        ("[3, 5]}", "[2, 5], parameters: {scale: 0.5}}", "6: scale: multiplies model.layers.3.self_attn.q_proj."),
        (
            "[3, 5]}",
            "[2, 5], parameters: {scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0}, {value: 1}]}}",
            "6: scale: no scales of a path multiply the weights like this",
        ),
        ("dtype", "base_model: b\ndtype", None),
        ("[3, 5]}", "[3, 5]}\n    base_model: b", "7: base_model: a recipe has one base for all slices."),
        ("[3, 5]}", "[3, 5]}\n    residual_weight: 0.5", "7: slices[1].residual_weight: unknown key"),
        ("passthrough", "ties\nbase_model: base", "2: base_model: 'base' is not among the sources of the slices"),
        ("dtype: float32", "models: [{model: a}]", "1: exactly one of models and slices"),
        ("[3, 5]}", "[3, 1000000000]}", "6: slices[1].sources[0].layer_range[1]: input should be less than or equal"),
        ("[3, 5]}", "[0, 2000]}", "2: slices: have 2003 blocks; a path has at most 2000"),
        ("passthrough", "slerp\nbase_model: a", "3: slices: slerp merges 1 model besides the base, not 0."),
    ],
)
def test_slices_without_a_path_are_refused(old: str, new: str, expected: str | None, models: Path) -> None:
    assert old in SLICES
    if expected is None:
        assert read(models, SLICES.replace(old, new)).host.text == "b"
    else:
        assert problems(models, SLICES.replace(old, new))[1].startswith(f"file.yaml:{expected}")


def test_all_problems_of_the_parameters_are_reported_at_once(models: Path) -> None:
    text = TIES.replace("0.5\n  -", "x\n  -").replace("0.5\ndtype: float32", "0.5\n      t: 1\ndtype: float64")
    assert [line.split(" ")[0] for line in problems(models, text)[1:]] == [
        "file.yaml:6:",
        "file.yaml:10:",
        "file.yaml:11:",
    ]


def test_a_gradient_without_a_model_at_hand_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    found = problems(tmp_path, TIES.replace("weight: 0.5\ndtype", "weight: [0, 1]\ndtype").replace(": b", ": org/b"))
    assert found[1].startswith("file.yaml:9: what a gradient, a filter or a slice means depends on")
    assert "hf download ID config.json" in found[1]


def test_a_config_in_the_hubs_cache_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "cache" / "models--org--base"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    (model / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (model / "snapshots" / ("0" * 40) / "config.json").write_text('{"num_hidden_layers": 3, "model_type": "llama"}')
    text = TIES.replace("base_model: base", "base_model: org/base").replace(
        "weight: 0.5\ndtype", "weight: [0, 1]\ndtype"
    )
    assert read(tmp_path, text).parameters["b"].weight == (0.0, 0.0, 0.5, 1.0, 0.0)


# ---- writing

UNITS = N_BLOCKS["base"] + 2
finite = st.floats(-3, 3, allow_nan=False)
shares = st.floats(0, 1)


def unit_values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Values]:
    return st.one_of(numbers, st.lists(numbers, min_size=UNITS, max_size=UNITS).map(tuple))


def values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Values]:
    part = unit_values(numbers)
    return st.one_of(part, st.builds(ByComponent, attention=part, mlp=part, norms=part, rest=part))


def live(given: Values) -> tuple[float, ...]:
    """Return the numbers that tensors have."""
    blocks = [value_at(given, unit, part) for unit in range(1, UNITS - 1) for part in ("attention", "mlp", "norms")]  # type: ignore[arg-type]
    ends = [value_at(given, 0), value_at(given, UNITS - 1), value_at(given, UNITS - 1, "norms")]
    return (*blocks, *ends)


@hypothesis_settings(deadline=None, max_examples=60)
@given(data=st.data(), method=st.sampled_from(sorted(MERGEKIT_METHODS)))
def test_a_recipe_goes_to_mergekit_and_back(
    data: st.DataObject, method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    row = MERGEKIT_METHODS[method]
    folder = make_configs(tmp_path_factory.mktemp("models") / "m")
    count = max(row.min_sources, min(2, row.max_sources or 2))
    limits = {"density": shares, "gamma": shares, "epsilon": st.floats(0, 0.5)}
    drawn = {
        name: data.draw(
            st.builds(
                SourceParameters,
                weight=values(finite) if row.weight else st.just(1.0),
                **{parameter: values(limits[parameter]) for parameter in row.parameters},
            )
        )
        for name in ("x", "no")[:count]
    }
    choices = {
        "normalize": st.sampled_from([None, True, False]),
        "lambda_": finite,
        "row_wise": st.booleans(),
        "select_topk": shares,
        "max_iterations": st.integers(1, 99),
        "threshold": shares,
        "tolerance": shares,
    }
    settings = {name: data.draw(choices[name]) for name in row.settings}
    if row.rescales:
        settings["rescale"] = data.draw(st.sampled_from(["l1", "none"]))
    with_base = row.base == "required" or (row.base == "optional" and data.draw(st.booleans()))
    base = ModelRef(text="base", origin=folder)
    sources = {"x": ModelRef(text="a", origin=folder), "no": ModelRef(text="b", origin=folder)}
    recipe = ParameterMerge(
        base=base if with_base else None,
        host=base if with_base else sources["x"],
        sources={name: sources[name] for name in drawn},
        method=method,
        settings=MergeSettings(**settings),
        seed=data.draw(st.integers(0, 9)),
        vocabulary=data.draw(st.sampled_from([None, "host"])),
        parameters=drawn,
    )
    again = read(folder, recipe_to_mergekit(recipe, n_blocks=N_BLOCKS["base"]))
    assert {name: live(numbers.weight) for name, numbers in again.parameters.items()} == {
        name: live(numbers.weight) for name, numbers in recipe.parameters.items()
    }
    for parameter in row.parameters:
        assert {name: live(getattr(numbers, parameter)) for name, numbers in again.parameters.items()} == {
            name: live(getattr(numbers, parameter)) for name, numbers in recipe.parameters.items()
        }
    # Numbers of units where a component has no tensor are not written; all else is the same recipe.
    assert replace(again, parameters=recipe.parameters).recipe_id == recipe.recipe_id
    if not any(
        isinstance(getattr(each, name), ByComponent) for each in drawn.values() for name in limits | {"weight": 0}
    ):
        assert again.recipe_id == recipe.recipe_id
    # And what was read is written and read as itself.
    assert read(folder, recipe_to_mergekit(again, n_blocks=N_BLOCKS["base"])).recipe_id == again.recipe_id


def test_gradients_that_miss_a_block_by_rounding_exist() -> None:
    """At some depths a gradient through all blocks is not exact; what is written must not rely on it."""
    blocks = [float(block) for block in range(24)]
    missed = [b for b in range(24) if gradient_value(blocks, block_position(b, 24)) != blocks[b]]
    assert missed == [13]


def recipe_of(folder: Path, method: str = "ties", **changes: object) -> ParameterMerge:
    fields: dict[str, object] = {
        "base": ModelRef(text="base", origin=folder),
        "host": ModelRef(text="base", origin=folder),
        "sources": {"a": ModelRef(text="a", origin=folder), "b": ModelRef(text="b", origin=folder)},
        "method": method,
        "parameters": {"a": SourceParameters(weight=1.0), "b": SourceParameters(weight=1.0)},
    }
    return ParameterMerge(**(fields | changes))  # type: ignore[arg-type]


HALF = SourceParameters(weight=1.0, density=0.5)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("my_own", {}, "method: mergekit has no equivalent of 'my_own'"),
        ("dare_ties", {"parameters": {"a": HALF, "b": HALF}}, "settings.rescale: `density` divides by the density"),
        ("ties", {"vocabulary": "base_rows"}, "vocabulary: base_rows has no equivalent in mergekit"),
        ("ties", {"base": None}, "base: missing; ties takes differences"),
        ("ties", {"config_from": "a"}, "config_from: mergekit takes the config of 'base', not of 'a'"),
        ("ties", {"settings": MergeSettings(row_wise=True)}, "settings.row_wise: mergekit's ties takes none"),
        ("linear", {"parameters": {"a": HALF, "b": HALF}}, "parameters.a.density: mergekit's linear takes none"),
        ("linear", {"settings": MergeSettings(lambda_=2.0)}, "settings.lambda: mergekit's linear takes none"),
        ("slerp", {}, "sources: mergekit's slerp does not merge 2"),
        (
            "sce",
            {"parameters": {"a": SourceParameters(weight=0.5), "b": SourceParameters(weight=1.0)}},
            "parameters.a.weight: mergekit's sce takes none; it must be 1",
        ),
        ("ties", {"parameters": {"a": SourceParameters(weight=(1.0, 2.0, 3.0)), "b": HALF}}, "lists of 3 numbers"),
    ],
)
def test_what_mergekit_cannot_do_is_named(method: str, changes: dict[str, object], message: str, models: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_to_mergekit(recipe_of(models, method, **changes), n_blocks=5)


def test_karcher_takes_weights_that_are_equal_everywhere(models: Path) -> None:
    def text(a: Values, b: Values) -> str:
        numbers = {"a": SourceParameters(weight=a), "b": SourceParameters(weight=b)}
        host = ModelRef(text="a", origin=models)
        return recipe_to_mergekit(recipe_of(models, "karcher", host=host, parameters=numbers), n_blocks=5)

    assert "weight:" not in text(0.5, (0.5,) * 7)
    with pytest.raises(ConfigError, match="karcher weighs all sources the same"):
        text(0.5, ByComponent(attention=0.5, mlp=0.5, norms=0.4, rest=0.5))


def test_mergekit_merges_no_model_that_sees(models: Path) -> None:
    (models / "base" / "config.json").write_text('{"vision_config": {}, "text_config": {"num_hidden_layers": 5}}')
    with pytest.raises(ConfigError, match="'base' sees pictures; mergekit merges language models only"):
        recipe_to_mergekit(recipe_of(models), n_blocks=5)


def test_another_host_than_the_base_gives_its_tokenizer_alone(models: Path) -> None:
    host = ModelRef(text="a", origin=models)
    with pytest.raises(ConfigError, match="host: mergekit takes the config of 'base', not of 'a'"):
        recipe_to_mergekit(recipe_of(models, host=host), n_blocks=5)
    with pytest.raises(ConfigError, match="can take no more than the tokenizer of 'a'"):
        recipe_to_mergekit(recipe_of(models, host=host, config_from="base"), n_blocks=5)
    recipe = recipe_of(models, host=host, config_from="base", vocabulary="host")
    text = recipe_to_mergekit(recipe, n_blocks=5)
    assert f"tokenizer_source: {models}/a\n" in text
    assert read(models, text).recipe_id == recipe.recipe_id


def test_densities_that_drop_nothing_need_no_rescaling(models: Path) -> None:
    text = recipe_to_mergekit(recipe_of(models, "dare_ties"), n_blocks=5)
    assert "rescale" not in text


def test_the_head_says_where_the_two_tools_differ(models: Path) -> None:
    text = recipe_to_mergekit(recipe_of(models, "dare_ties", settings=MergeSettings(rescale="l1")), n_blocks=5)
    assert "# mergekit draws what to drop from a generator of its own" in text
    assert "dtype: float32\n" in text
    for name in ("base", "a", "b"):
        (models / name / "config.json").unlink()
    negative = {"a": SourceParameters(weight=-1.0), "b": HALF}
    text = recipe_to_mergekit(recipe_of(models, parameters=negative), n_blocks=5)
    assert "# mergekit computes models stored in bfloat16 in bfloat16" in text
    assert "# Weights of both signs" in text


# ---- the command


def test_the_command_prints_or_writes_and_never_overwrites(models: Path) -> None:
    recipe = place("recipes/ties_deep.yaml", models)
    runner = CliRunner()
    printed = runner.invoke(app, ["export", str(recipe), "--format", "mergekit"])
    assert printed.exit_code == 0
    out = models / "out.yaml"
    assert runner.invoke(app, ["export", str(recipe), "--format", "mergekit", "--out", str(out)]).stdout.strip() == str(
        out
    )
    assert out.read_text() == printed.stdout
    assert load_recipe(out).recipe_id == load_recipe(recipe).recipe_id
    again = runner.invoke(app, ["export", str(recipe), "--format", "mergekit", "--out", str(out)])
    assert isinstance(again.exception, OutputExists)
    as_json = json.loads(runner.invoke(app, ["export", str(recipe), "--format", "mergekit", "--json"]).stdout)
    assert as_json == {
        "recipe_id": load_recipe(recipe).recipe_id,
        "format": "mergekit",
        "file": None,
        "text": printed.stdout,
    }


# ---- paths


def path_in(folder: Path, text: str) -> list[tuple[str, int, float]]:
    recipe = read_any(folder, text)
    assert isinstance(recipe, LayerPathMerge)
    return [(step.source, step.layer, step.scale) for step in recipe.path.steps]


def test_slices_of_several_models_are_a_path(models: Path) -> None:
    text = (
        "merge_method: passthrough\ndtype: float32\nslices:\n"
        "  - sources: [{model: a, layer_range: [0, 3]}]\n  - sources: [{model: b, layer_range: [1, 3]}]\n"
        "  - sources: [{model: a, layer_range: [2, 5]}]\n"
    )
    blocks = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("a", 2), ("a", 3), ("a", 4)]
    assert path_in(models, text) == [(*block, 1.0) for block in blocks]
    recipe = read_any(models, text + "base_model: a\n")
    assert isinstance(recipe, LayerPathMerge)
    assert (recipe.host.text, sorted(recipe.sources)) == ("a", ["a", "b"])
    fewer = "merge_method: passthrough\ndtype: float32\nslices: [{sources: [{model: a, layer_range: [0, 3]}]}]\n"
    assert path_in(models, fewer) == [("a", block, 1.0) for block in range(3)]


def test_scales_of_slices_are_those_of_the_steps_after_them(models: Path) -> None:
    text = (
        "merge_method: passthrough\ndtype: float32\nslices:\n"
        "  - sources: [{model: a, layer_range: [0, 2], parameters: {scale: [{filter: embed_tokens, value: 2}, "
        "{filter: mlp.down_proj, value: 0.5}]}}]\n"
        "  - sources: [{model: a, layer_range: [1, 2]}]\n"
    )
    assert path_in(models, text) == [("a", 0, 2.0), ("a", 1, 0.5), ("a", 1, 0.5)]
    both = text.replace("{filter: embed_tokens, value: 2}, ", "{filter: o_proj, value: 0.5}, ").replace(
        "[1, 2]}", "[1, 2], parameters: {scale: [{filter: o_proj, value: 0.25}, {filter: down_proj, value: 0.25}]}}"
    )
    assert path_in(models, both) == [("a", 0, 2.0), ("a", 1, 1.0), ("a", 1, 2.0)]


# ---- other tools, and what changes nothing


def test_a_lambda_that_the_method_ignores_is_a_note(models: Path) -> None:
    path = models / "file.yaml"
    path.write_text(
        "merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: a}]\n"
        "parameters: {t: 0.5, lambda: 0.9}\n"
    )
    notes: list[str] = []
    load_recipe(path, on_note=notes.append)
    assert notes == [f"{path}:4: lambda: mergekit's slerp ignores it here, and so does the recipe"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_model: a\ngate_mode: hidden\nexperts: [{source_model: b}]", "is a config of mergekit-moe, which builds"),
        ("genome: {models: [a]}\ntasks: [x]", "is a config of mergekit-evolve, so it describes a search"),
    ],
)
def test_files_of_other_tools_are_named(text: str, message: str, models: Path) -> None:
    path = models / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_the_config_of_an_average_can_come_from_a_source_called_base(models: Path) -> None:
    text = "models: [{model: base, parameters: {weight: 1}}, {model: a, parameters: {weight: 1}}]\n"
    recipe = read(models, text + "merge_method: linear\nbase_model: base\ntokenizer_source: a\ndtype: float32\n")
    assert (recipe.base, recipe.host.text, recipe.config_from, set(recipe.sources)) == (
        None,
        "a",
        "base",
        {"a", "base"},
    )
