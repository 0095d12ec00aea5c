"""The merger on pico models: what must hold of every merge."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evovlm.errors import BrokenCheckpoint, ConfigError, IncompatibleModels, ModelNotFound
from evovlm.merging import merge as merge_module
from evovlm.merging.arithmetic import task_vector
from evovlm.merging.arithmetic.buffers import Raw
from evovlm.merging.arithmetic.methods import METHODS
from evovlm.merging.arithmetic.selection import draw_key, draws
from evovlm.merging.before.preflight import preflight
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, ParameterMerge, Rescale
from evovlm.recipes.source_values import ByComponent, SourceParameters, UnitValues
from tests.merging.recipes import make_recipe, merge_all, same_bytes
from tests.pico import pico_llm, pico_tokenizer

N_UNITS = 4
ROWS = len(pico_tokenizer())


def whole(models: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(models / name)
    return {each: checkpoint.read(each) for each in checkpoint.backbone_names()}


SOURCES = ("math", "ja", "other-rope")


def recipe_of(
    models: Path, method: str, *, rescale: Rescale = "density", density: UnitValues = 0.6, row_wise: bool = False
) -> ParameterMerge:
    """Return a recipe of as many sources as the method takes, with numbers in its range."""
    row = METHODS[method]
    count = min(row.sources[1] or 3, 3)
    weights = dict(zip(SOURCES, (0.7, 0.45, 0.3), strict=True))
    numbers = {
        name: (weights[name] if "weight" in row.parameters else 1.0, density if "density" in row.parameters else 1.0)
        for name in SOURCES[:count]
    }
    settings = MergeSettings(rescale=rescale, row_wise=row_wise, select_topk=0.5 if method == "sce" else 1.0)
    return make_recipe(models, numbers, method=method, settings=settings)


VARIANTS = [
    *({"method": name} for name in METHODS),
    *({"method": name, "rescale": "l1"} for name, method in METHODS.items() if "rescale" in method.settings),
    *({"method": name, "row_wise": True} for name, method in METHODS.items() if "row_wise" in method.settings),
]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_sources_makes_no_difference_to_a_bit(models: Path, method: str) -> None:
    first = recipe_of(models, method)
    turned = dict(reversed(first.sources.items()))
    second = replace(first, sources=turned, parameters=dict(reversed(first.parameters.items())))
    assert first.recipe_id == second.recipe_id
    assert same_bytes(merge_all(first), merge_all(second))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_threads_pieces_and_memory_make_no_difference_to_a_bit(
    models: Path, variant: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(models, **variant, density=(0.3, 0.6, 1.0, 0.0))
    once = merge_all(recipe)
    assert same_bytes(once, merge_all(recipe, threads=3))
    for cache_bytes in (20_000, 1 << 30):
        # What is kept for the next candidate changes nothing, whether it fits in part or whole.
        merger = Merger.open(recipe, threads=1, cache_bytes=cache_bytes)
        for _ in range(2):
            assert same_bytes(once, merge_all(recipe, merger=merger))
    if not METHODS[recipe.method].by_inner_products:
        # Inner products are summed chunk by chunk; the size of a chunk is a part of the arithmetic.
        monkeypatch.setattr(task_vector, "CHUNK", 96)
        assert same_bytes(once, merge_all(recipe))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_what_a_merge_holds_between_passes_changes_no_bit_and_is_given_back(
    models: Path, variant: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(models, **variant)
    monkeypatch.setattr(merge_module, "HELD_BYTES", 0)
    once = merge_all(recipe)
    # All tensors are merged alone, in several threads, with memory for a part of them.
    monkeypatch.setattr(merge_module, "_SMALL", 0)
    for held in (20_000, 1 << 28):
        monkeypatch.setattr(merge_module, "HELD_BYTES", held)
        merger = Merger.open(recipe, threads=3)
        for _ in range(2):
            assert same_bytes(once, merge_all(recipe, merger=merger))
        assert merger._holding.left_bytes == held


@pytest.mark.parametrize("small", [0, 1 << 16])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_merge_reads_each_entry_once(
    models: Path, variant: Mapping[str, Any], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(model: task_vector.ModelTensor, offset: int, out: Raw) -> None:
        read.append(f"{model.label} {model.place.name} {offset}")
        plain(model, offset, out)

    plain = task_vector.ModelTensor.read
    monkeypatch.setattr(task_vector.ModelTensor, "read", counted)
    monkeypatch.setattr(merge_module, "_SMALL", small)
    merge_all(recipe_of(models, **variant))
    assert len(read) == len(set(read)) > 0


def test_a_source_without_weight_is_not_read(models: Path, tmp_path: Path) -> None:
    broken = pico_llm(tmp_path / "broken", like=models / "base")
    tensors = load_file(broken / "model.safetensors")
    save_file({name: tensor.fill_(torch.nan) for name, tensor in tensors.items()}, broken / "model.safetensors")
    recipe = make_recipe(models, {"math": (0.7, 0.5), "ja": (0.0, 0.5)}, method="ties", settings=MergeSettings())
    unread = replace(recipe, sources={**recipe.sources, "ja": ModelRef(text=str(broken))})
    assert same_bytes(merge_all(recipe), merge_all(unread))


def test_a_draw_whose_upper_bits_are_the_limits_is_decided_by_the_rest(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5)})
    merger = Merger.open(recipe, threads=1, cache_bytes=1 << 30)
    name = "model.layers.0.mlp.up_proj.weight"
    drawn = draws(draw_key(recipe.seed, "math", name), start=0, size=48 * 32)
    for near in (int(drawn[3]), int(drawn[3]) + 1):
        # The limit is this draw, which is not kept then, or the next number, so that it is.
        exact = replace(recipe, parameters={"math": SourceParameters(weight=0.7, density=near / 2**24)})
        merged = merge_all(exact, merger=merger)
        assert same_bytes(merged, merge_all(exact))
        changed = merged[name].flatten()[3] != whole(models, "base")[name].flatten()[3]
        assert bool(changed) == (near > int(drawn[3]))


def test_the_layout_of_shards_makes_no_difference_to_a_bit(models: Path, tmp_path: Path) -> None:
    base = pico_llm(tmp_path / "base", like=models / "base", drift=0.0)
    pico_llm(tmp_path / "math", like=base, seed=1, max_shard_size="40KB")
    pico_llm(tmp_path / "whole" / "math", like=base, seed=1)
    assert len(list((tmp_path / "math").glob("*.safetensors"))) > 1
    sharded = make_recipe(tmp_path, {"math": (0.7, 0.4)})
    single = make_recipe(tmp_path / "whole", {"math": (0.7, 0.4)}, base=str(base), host=str(base))
    assert same_bytes(merge_all(sharded), merge_all(single))


def test_merging_again_gives_the_same_and_other_numbers_something_else(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "ja": (0.45, 0.5)})
    merger = Merger.open(recipe)
    first = merge_all(recipe, merger=merger)
    other = replace(recipe, parameters={name: SourceParameters(weight=0.1, density=0.9) for name in recipe.sources})
    assert not same_bytes(first, merge_all(other, merger=merger))
    assert same_bytes(first, merge_all(recipe, merger=merger))


WEIGHTED = [name for name, method in METHODS.items() if "weight" in method.parameters]


@pytest.mark.parametrize("method", [name for name in WEIGHTED if METHODS[name].needs_base])
def test_no_weight_gives_the_base_bit_for_bit(models: Path, method: str) -> None:
    recipe = recipe_of(models, method)
    without = replace(recipe, parameters={name: SourceParameters(weight=0.0) for name in recipe.sources})
    assert same_bytes(merge_all(without), whole(models, "base"))


@pytest.mark.parametrize("method", WEIGHTED)
@pytest.mark.parametrize(("base", "source"), [("base", "math"), ("base16", "math16")])
def test_one_source_of_weight_1_and_density_1_gives_it_bit_for_bit(
    models: Path, method: str, base: str, source: str
) -> None:
    numbers = {source: (1.0, 1.0)} | ({"ja": (0.0, 1.0)} if METHODS[method].sources[0] > 1 else {})
    recipe = make_recipe(models, numbers, method=method, base=base, host=base)
    assert same_bytes(merge_all(recipe), whole(models, source))


@pytest.mark.parametrize("method", ["dare_ties", "ties", "linear", "slerp"])
def test_a_source_alone_is_itself_after_and_before_other_candidates(models: Path, method: str) -> None:
    recipe = recipe_of(models, method)
    merger = Merger.open(recipe, threads=1, cache_bytes=1 << 30)
    usual = merge_all(recipe)
    for _ in range(2):
        for alone in recipe.sources:
            numbers = {name: SourceParameters(weight=float(name == alone)) for name in recipe.sources}
            assert same_bytes(merge_all(replace(recipe, parameters=numbers), merger=merger), whole(models, alone))
        assert same_bytes(merge_all(recipe, merger=merger), usual)


def test_units_are_embedding_blocks_and_head(models: Path) -> None:
    recipe = make_recipe(models, {"math": ((0.0, 1.0, 0.0, 1.0), 1.0)}, method="task_arithmetic")
    merged, base, math = merge_all(recipe), whole(models, "base"), whole(models, "math")
    for name, tensor in merged.items():
        from_math = name.startswith("model.layers.0.") or name in ("model.norm.weight", "lm_head.weight")
        assert torch.equal(tensor, (math if from_math else base)[name]), name


def test_the_result_has_the_hosts_dtype(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.5, 1.0)}, method="task_arithmetic", host="base16")
    merged = merge_all(recipe)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    wanted = merge_all(make_recipe(models, {"math": (0.5, 1.0)}, method="task_arithmetic"))
    assert same_bytes(merged, {name: tensor.bfloat16() for name, tensor in wanted.items()})


def test_a_vlm_host_keeps_its_further_rows(models: Path) -> None:
    recipe = make_recipe(models, {"vlm": (0.6, 0.8), "ja": (0.5, 0.8)}, host="vlm", vocabulary="host")
    merged, vlm = merge_all(recipe), whole(models, "vlm")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert merged[name].shape == vlm[name].shape == (ROWS + 5, 32)
        assert torch.equal(merged[name][ROWS:], vlm[name][ROWS:])
        assert not torch.equal(merged[name][:ROWS], vlm[name][:ROWS])


def test_a_vlm_as_source_gives_its_backbone(models: Path) -> None:
    recipe = make_recipe(models, {"vlm": (1.0, 1.0)}, vocabulary="base_rows")
    merged, vlm = merge_all(recipe), whole(models, "vlm")
    for name, tensor in merged.items():
        assert torch.equal(tensor, vlm[name][:ROWS] if tensor.shape != vlm[name].shape else vlm[name])
    assert any("sees pictures" in warning for warning in Merger.open(recipe).warnings)


def test_base_rows_refuses_a_host_with_more(models: Path) -> None:
    with pytest.raises(IncompatibleModels, match="the host needs"):
        Merger.open(make_recipe(models, {"ja": (0.5, 0.8)}, host="vlm", vocabulary="base_rows"))


def test_a_base_with_more_rows_than_the_host_is_cut_to_the_hosts(models: Path) -> None:
    merged = merge_all(make_recipe(models, {"math": (0.0, 1.0)}, base="vlm", vocabulary="host"))
    vlm = whole(models, "vlm")
    assert torch.equal(merged["lm_head.weight"], vlm["lm_head.weight"][:ROWS])


def test_any_other_shape_is_an_error_naming_tensor_and_shapes(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "odd")
    weights = load_file(tmp_path / "odd" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(47, 32)
    save_file(weights, tmp_path / "odd" / "model.safetensors")
    recipe = make_recipe(tmp_path, {"odd": (0.5, 1.0)}, base=str(models / "base"), host=str(models / "base"))
    with pytest.raises(IncompatibleModels, match=r"layers\.1\.mlp\.up_proj\.weight has shape \[48, 32\].*\[47, 32\]"):
        Merger.open(recipe)


def test_another_number_of_blocks_is_an_error(models: Path) -> None:
    with pytest.raises(
        IncompatibleModels, match=r"sources\.deeper \('deeper'\) has 3 blocks and host \('base'\) has 2"
    ):
        Merger.open(make_recipe(models, {"deeper": (0.5, 1.0)}))


def test_a_missing_and_a_surplus_tensor_are_named(models: Path, tmp_path: Path) -> None:
    for folder, change in (("less", "del"), ("more", "add")):
        shutil.copytree(models / "math", tmp_path / folder)
        weights = load_file(tmp_path / folder / "model.safetensors")
        if change == "del":
            del weights["model.layers.1.mlp.up_proj.weight"]
        else:
            weights["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(32)
        save_file(weights, tmp_path / folder / "model.safetensors")
        recipe = make_recipe(tmp_path, {folder: (0.5, 1.0)}, base=str(models / "base"), host=str(models / "base"))
        named = "lacks model.layers.1.mlp.up_proj" if change == "del" else "has model.layers.1.self_attn.q_proj.bias"
        with pytest.raises(IncompatibleModels, match=named):
            Merger.open(recipe)


def test_tied_models_merge_without_a_head(models: Path) -> None:
    recipe = make_recipe(models, {"tied2": (0.5, 1.0)}, base="tied", host="tied", method="task_arithmetic")
    merged = merge_all(recipe)
    assert "lm_head.weight" not in merged
    assert merged.keys() == whole(models, "tied").keys()


def test_a_tied_source_gives_its_embedding_to_an_untied_head(models: Path) -> None:
    recipe = make_recipe(models, {"tied2": (1.0, 1.0)})
    merged, tied = merge_all(recipe), whole(models, "tied2")
    assert torch.equal(merged["lm_head.weight"], tied["model.embed_tokens.weight"])


def test_an_untied_source_of_a_tied_host_merges_without_its_head(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.5, 1.0)}, base="tied", host="tied")
    assert "lm_head.weight" not in merge_all(recipe)
    (warning,) = Merger.open(recipe).warnings
    assert warning.startswith("tie_word_embeddings is True in host ('tied')")


def test_rope_and_window_that_differ_are_warned_of(models: Path) -> None:
    warnings = Merger.open(make_recipe(models, {"other-rope": (0.5, 1.0), "math": (0.5, 1.0)})).warnings
    assert any(w.startswith("rope_theta is 10000.0 in host ('base')") and "1000000.0" in w for w in warnings)
    assert any(w.startswith("sliding_window is None") and "64 in sources.other-rope" in w for w in warnings)


def test_models_that_agree_give_no_warnings(models: Path) -> None:
    assert Merger.open(make_recipe(models, {"math": (0.5, 1.0)})).warnings == ()


def test_the_older_rope_theta_is_read_too(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "older")
    config = (tmp_path / "older" / "config.json").read_text()
    start = config.index('"rope_parameters"')
    stop = config.index("}", start) + 1
    (tmp_path / "older" / "config.json").write_text(config[:start] + '"rope_theta": 500000.0' + config[stop:])
    recipe = make_recipe(tmp_path, {"older": (0.5, 1.0)}, base=str(models / "base"), host=str(models / "base"))
    assert any("500000.0 in sources.older" in warning for warning in Merger.open(recipe).warnings)


def test_heads_that_differ_behind_equal_shapes_are_an_error(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "heads")
    config = tmp_path / "heads" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 8'))
    recipe = make_recipe(tmp_path, {"heads": (0.5, 1.0)}, base=str(models / "base"), host=str(models / "base"))
    with pytest.raises(IncompatibleModels, match="num_attention_heads is 8"):
        Merger.open(recipe)


def test_a_list_of_a_wrong_length_is_an_error(models: Path) -> None:
    recipe = make_recipe(models, {"math": ((0.5, 0.5, 0.5), 1.0)})
    with pytest.raises(ConfigError, match="a list of 3 numbers, but 4 are needed for 2 blocks"):
        Merger.open(recipe).check(recipe)


def test_a_density_that_would_be_ignored_is_an_error(models: Path) -> None:
    recipe = make_recipe(models, {"math": (0.5, 0.9)}, method="linear")
    with pytest.raises(ConfigError, match=r"parameters\.math\.density: linear has no density"):
        merge_all(recipe)


def test_a_recipe_of_another_template_is_refused(models: Path) -> None:
    merger = Merger.open(make_recipe(models, {"math": (0.5, 0.9)}))
    with pytest.raises(ConfigError, match="has another template"):
        merge_all(make_recipe(models, {"math": (0.5, 0.9)}, seed=1), merger=merger)


def test_numbers_that_are_not_finite_are_an_error(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "nan" / "model.safetensors")
    recipe = make_recipe(tmp_path, {"nan": (0.5, 1.0)}, base=str(models / "base"), host=str(models / "base"))
    with pytest.raises(BrokenCheckpoint, match=r"model\.norm\.weight holds numbers that are not finite"):
        merge_all(recipe)


def test_a_missing_model_is_named(models: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"Model '\./nowhere'"):
        Merger.open(make_recipe(models, {"math": (0.5, 1.0)}, base="./nowhere"))


def test_numbers_of_single_tensors_count_before_those_of_their_component(models: Path) -> None:
    single = (("mlp.up_proj.weight", (0.0, 1.0, 0.0, 0.0)), ("self_attn.q_proj.weight", 1.0))
    weight = ByComponent(attention=0.0, mlp=0.0, norms=0.0, rest=0.0, tensors=single)
    recipe = replace(
        make_recipe(models, {"math": (0.5, 1.0)}, method="task_arithmetic"),
        parameters={"math": SourceParameters(weight=weight)},
    )
    merged, base, math = merge_all(recipe), Checkpoint.open(models / "base"), Checkpoint.open(models / "math")
    for name, tensor in merged.items():
        taken = name.endswith("self_attn.q_proj.weight") or name == "model.layers.0.mlp.up_proj.weight"
        assert torch.equal(tensor, (math if taken else base).read(name)), name


def test_a_number_for_a_tensor_that_does_not_exist_is_refused(models: Path) -> None:
    weight = ByComponent(attention=0.0, mlp=0.0, norms=0.0, rest=0.0, tensors=(("mlp.up_prj.weight", 1.0),))
    recipe = replace(make_recipe(models, {"math": (0.5, 1.0)}), parameters={"math": SourceParameters(weight=weight)})
    message = (
        "parameters: 'mlp.up_prj.weight' is not a merged tensor of these models; did you mean 'mlp.up_proj.weight'"
    )
    with pytest.raises(ConfigError, match=message):
        merge_all(recipe)
    assert any(message in str(problem) for problem in preflight(recipe).problems)


def test_small_tensors_in_groups_and_large_ones_alone_give_the_same_bytes(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(models, {"math": (0.5, 0.6), "vlm": (0.7, 0.4)}, settings=MergeSettings(rescale="l1"))
    together = merge_all(recipe)
    for small, group in ((0, 1), (64, 100), (10**9, 10**9)):
        monkeypatch.setattr(merge_module, "_SMALL", small)
        monkeypatch.setattr(merge_module, "_GROUP", group)
        for threads in (1, 3):
            assert same_bytes(merge_all(recipe, threads=threads), together)
