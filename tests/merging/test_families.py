"""Every family of checkpoints: pico models of the real classes, merged on disk and in memory."""

import functools
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from evovlm.evaluation.resident import ResidentModel
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.merging.writer import write_checkpoint
from evovlm.models.backbone import Backbone
from evovlm.models.loading import load_model
from evovlm.models.stored_views import find_parameters
from evovlm.recipes.families import ANY_BLOCK, TEXT_FAMILIES, VLM_FAMILIES
from evovlm.recipes.language_config import backbone_settings
from evovlm.recipes.recipe import ParameterMerge
from tests.marks import quick_and_slow
from tests.merging.recipes import make_recipe, merge_all, same_bytes
from tests.paths import LLM_FAMILIES
from tests.pico import pico_llm, pico_tokenizer, pico_vlm
from tests.pico_families import PICTURE_FAMILIES, TEXT_PICOS, VLM_PICOS

ROWS = len(pico_tokenizer())
VLMS = list(VLM_FAMILIES)
LLMS = [name for name, family in TEXT_FAMILIES.items() if family.architecture == name]
MODEL_TYPES = [*LLMS, *VLMS]
# The language models that a VLM family is found with beside its usual one.
FURTHER_TEXTS = [
    ("llava", "llama"),
    ("llava", "gemma"),
    ("llava_next", "llama"),
    ("llava_next", "qwen2"),
    ("internvl", "llama"),
    ("internvl", "qwen3"),
]


def trio(folder: Path, family: str, *, text: str | None = None, tie: bool, hub_naming: bool = True) -> Path:
    """Save `base` and `ja`, language models of the VLM's architecture, and `vlm`; return the folder."""
    text = text or VLM_PICOS[family].text
    plain = TEXT_FAMILIES[text].architecture
    base = pico_llm(folder / "base", family=plain, tie=tie)
    pico_llm(folder / "ja", family=plain, tie=tie, like=base, seed=1)
    pico_vlm(folder / "vlm", family=family, text=text, tie=tie, like=base, seed=2, hub_naming=hub_naming)
    return folder


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the untied trio of a family, saved once; it is only read."""

    @functools.cache
    def saved(family: str) -> Path:
        return trio(tmp_path_factory.mktemp("trios"), family, tie=False)

    return saved


def into_vlm(models: Path) -> ParameterMerge:
    return make_recipe(models, {"vlm": (0.7, 0.5), "ja": (0.5, 0.5)}, host="vlm", vocabulary="host")


def loaded_whole(folder: Path, *, sees: bool) -> PreTrainedModel:
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert {kind: found for kind, found in report.items() if found} == {}
    return model


def stored(checkpoint: Checkpoint, names: tuple[str, ...]) -> Mapping[str, bytes]:
    return {name: checkpoint.places[name].read_bytes() for name in names}


def check_merge(recipe: ParameterMerge, out: Path) -> None:
    """Write the merge, load it, compare it with the merged tensors, the host and the merge in memory."""
    merged = merge_all(recipe)
    host = Checkpoint.open(recipe.host.resolve())
    result = Checkpoint.open(write_checkpoint(recipe, out).folder)
    assert result.places.keys() == host.places.keys()
    assert result.other_names() == host.other_names()
    assert stored(result, host.other_names()) == stored(host, host.other_names())
    assert merged.keys() == set(host.backbone_names())
    assert not same_bytes(merged, {name: host.read(name) for name in merged})

    model = loaded_whole(out, sees=host.layout.is_vlm)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = {name: host.layout.disk_name(name) for name in merged}
    views = find_parameters(model, names, shapes={name: tensor.shape for name, tensor in merged.items()})
    for name, tensor in merged.items():
        assert torch.equal(views[name], tensor), name
        assert torch.equal(result.read(name), tensor), name
    assert views["model.embed_tokens.weight"].data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert (parameters["lm_head.weight"] is model.get_input_embeddings().weight) == host.layout.tied

    resident = ResidentModel.open(recipe.template, device="cpu")
    assert resident.merge(recipe)
    in_memory = dict(resident.loaded.model.named_parameters(remove_duplicate=False))
    assert same_bytes(in_memory, parameters)
    backbone = Backbone.of(resident.loaded)
    assert backbone.embedding is resident.loaded.model.get_input_embeddings()
    assert backbone.head.weight is in_memory["lm_head.weight"]
    assert backbone.layers is not None
    assert len(backbone.layers) == host.layout.n_blocks


def test_every_family_has_a_pico() -> None:
    assert set(VLMS) == VLM_PICOS.keys()
    assert TEXT_FAMILIES.keys() == TEXT_PICOS.keys()
    assert set(LLMS) == {family.architecture for family in TEXT_FAMILIES.values()}


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("hub_naming", [True, False], ids=["hub", "modules"])
@pytest.mark.parametrize("family", quick_and_slow(PICTURE_FAMILIES, quick=3))
def test_a_vlm_of_each_family_and_naming_takes_a_merge(
    family: str, hub_naming: bool, tie: bool, tmp_path: Path
) -> None:
    models = trio(tmp_path, family, tie=tie, hub_naming=hub_naming)
    layout = Checkpoint.open(models / "vlm").layout
    hub = {"qwen2_vl": "model.", "qwen2_5_vl": "model.", "qwen3_vl": "model.language_model."}
    body = hub.get(family, "language_model.model.") if hub_naming else "model.language_model."
    assert layout.disk_name("model.norm.weight") == f"{body}norm.weight"
    assert layout.tied == tie
    check_merge(into_vlm(models), tmp_path / "out")


@pytest.mark.parametrize(("family", "text"), quick_and_slow(FURTHER_TEXTS, quick=3))
def test_a_vlm_may_have_another_language_model(family: str, text: str, tmp_path: Path) -> None:
    check_merge(into_vlm(trio(tmp_path, family, text=text, tie=False)), tmp_path / "out")


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", quick_and_slow(LLM_FAMILIES, quick=3))
def test_two_fine_tunes_of_each_language_model_merge(family: str, tie: bool, tmp_path: Path) -> None:
    base = pico_llm(tmp_path / "base", family=family, tie=tie)
    for seed, name in enumerate(("math", "ja"), start=1):
        pico_llm(tmp_path / name, family=family, tie=tie, like=base, seed=seed)
    recipe = make_recipe(tmp_path, {"math": (0.7, 0.5), "ja": (0.5, 0.5)})
    assert Merger.open(recipe).warnings == ()
    check_merge(recipe, tmp_path / "out")


@pytest.mark.parametrize("family", LLMS)
def test_a_row_names_the_tensors_of_a_block(family: str, tmp_path: Path) -> None:
    names = Checkpoint.open(pico_llm(tmp_path / "base", family=family)).backbone_names()
    found = {name.removeprefix("model.layers.0.") for name in names if name.startswith("model.layers.0.")}
    row = set(TEXT_FAMILIES[family].block_tensors)
    assert found <= row <= set(ANY_BLOCK)
    # Qwen2 has biases of queries, keys and values alone.
    assert row - found <= {"self_attn.o_proj.bias"}


@pytest.mark.parametrize("family", VLMS)
def test_towers_and_projectors_are_not_part_of_the_backbone(family: str, untied: Callable[[str], Path]) -> None:
    models = untied(family)
    vlm, base = Checkpoint.open(models / "vlm"), Checkpoint.open(models / "base")
    assert vlm.backbone_names() == base.backbone_names()
    n_parameters = dict.fromkeys(("vision_tower", "visual", "multi_modal_projector", "image_newline"), 0)
    for name in vlm.other_names():
        (part,) = (part for part in n_parameters if part in name)
        n_parameters[part] += 1
    assert len(vlm.places) == len(vlm.backbone_names()) + sum(n_parameters.values())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_positions_of_a_qwen_vl_are_those_of_its_language_model(family: str, untied: Callable[[str], Path]) -> None:
    """Text without pictures has equal positions in all three dimensions, so the rope is the same."""
    assert Merger.open(into_vlm(untied(family))).warnings == ()


@pytest.mark.parametrize("family", [name for name in VLMS if not name.startswith("qwen")])
def test_a_vlm_like_its_language_model_gives_no_warnings(family: str, untied: Callable[[str], Path]) -> None:
    assert Merger.open(into_vlm(untied(family))).warnings == ()


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", [name for name, family in VLM_FAMILIES.items() if family.flat_once])
def test_an_older_config_without_a_text_config_is_read(family: str, tie: bool, tmp_path: Path) -> None:
    models = trio(tmp_path, family, tie=tie)
    file = models / "vlm" / "config.json"
    config = json.loads(file.read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    older = {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    # As on the hub: a flag that is not set is not there.
    ties = {"tie_word_embeddings": True} if tie else {}
    file.write_text(json.dumps({**text, **config, **older, **ties}))
    layout = Checkpoint.open(models / "vlm").layout
    assert (layout.text_model_type, layout.tied) == (f"{family}_text", tie)
    assert Merger.open(into_vlm(models)).warnings == ()
    check_merge(into_vlm(models), tmp_path / "out")


@pytest.mark.parametrize("tie", [None, False, True])
@pytest.mark.parametrize("text_tie", [None, False, True])
@pytest.mark.parametrize("text", [None, "qwen2", "gemma2"])
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_head_and_text_model_are_those_that_transformers_takes(
    family: str, text: str | None, text_tie: bool | None, tie: bool | None
) -> None:
    config: dict[str, object] = {} if tie is None else {"tie_word_embeddings": tie}
    if family in VLMS:
        named: dict[str, object] = {} if text is None else {"model_type": text}
        config["text_config"] = named | ({} if text_tie is None else {"tie_word_embeddings": text_tie})
    known = AutoConfig.for_model(family, **deepcopy(config))
    layout = BackboneLayout.from_config(config | {"model_type": family})
    assert layout.tied == known.tie_word_embeddings
    # The class decides, whatever name its config.json gives.
    assert layout.text_model_type == type(known.get_text_config()).model_type


def test_a_head_with_different_numbers_is_not_tied(tmp_path: Path) -> None:
    """InternVL3-8B and the like: untied on disk, though the config class ties what config.json leaves open."""
    models = trio(tmp_path, "internvl", tie=False)
    file = models / "vlm" / "config.json"
    config = json.loads(file.read_text())
    del config["tie_word_embeddings"]
    file.write_text(json.dumps(config))
    assert not Checkpoint.open(models / "vlm").layout.tied
    check_merge(into_vlm(models), tmp_path / "out")


@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_the_defaults_are_those_of_transformers(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    silent = backbone_settings({}, model_type)
    rope = config.rope_parameters
    if "full_attention" in rope:
        assert silent["rope_theta of sliding layers"] == rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    assert silent["rope_theta"] == rope["rope_theta"]
    assert silent["rope scaling"] == rope["rope_type"] == "default"
    assert silent["sliding_window"] == getattr(config, "sliding_window", None)
    assert silent["rms_norm_eps"] == config.rms_norm_eps
    assert silent["hidden_act"] == getattr(config, TEXT_FAMILIES[model_type].activation_key)
    assert TEXT_FAMILIES[model_type].tied == bool(getattr(config, "tie_word_embeddings", False))
    if model_type in LLMS:
        stated = backbone_settings(config.to_dict(), model_type)
        assert {key: stated[key] for key in silent} == silent


def test_an_older_gemma_3_config_means_the_same(tmp_path: Path) -> None:
    older = {"rope_theta": 1e6, "rope_local_base_freq": 10000, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    newer = AutoConfig.for_model("gemma3_text", **older).to_dict()
    settings, newer_settings = (backbone_settings(config, "gemma3_text") for config in (older, newer))
    assert settings == {key: newer_settings[key] for key in settings}
    assert settings["rope scaling"] == "linear {'factor': 8.0}"


def test_the_papers_pair_merges_with_a_warning_of_rope_and_window(tmp_path: Path) -> None:
    """llava-v1.6-mistral-7b-hf and shisa-gamma-7b-v1 over Mistral-7B-v0.1, in small."""
    positions = {"rope_theta": 1e4, "sliding_window": 4096}
    base = pico_llm(tmp_path / "base", **positions)
    pico_llm(tmp_path / "ja", like=base, seed=1, **positions)
    pico_vlm(tmp_path / "vlm", family="llava_next", like=base, seed=2, extra_rows=64, rope_theta=1e6)
    recipe = into_vlm(tmp_path)
    merger = Merger.open(recipe)
    theta, window = merger.warnings
    assert theta == (
        "rope_theta is 1000000.0 in host ('vlm') and sources.vlm ('vlm'), "
        "and 10000.0 in base ('base') and sources.ja ('ja'); the result takes the host's (`config_from` in the recipe "
        "can name base or a source instead)."
    )
    assert window == (
        "sliding_window is None in host ('vlm') and sources.vlm ('vlm'), "
        "and 4096 in base ('base') and sources.ja ('ja'); the result takes the host's (`config_from` in the recipe "
        "can name base or a source instead)."
    )
    assert merger.rows["model.embed_tokens.weight"] == merger.rows["lm_head.weight"]
    assert merger.rows["model.embed_tokens.weight"].n_merged == ROWS
    vlm, merged = Checkpoint.open(tmp_path / "vlm"), merge_all(recipe, merger=merger)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(merged[name][ROWS:], vlm.read(name)[ROWS:])
    check_merge(recipe, tmp_path / "out")
    config = load_model(tmp_path / "out", device="cpu").model.config.text_config
    assert (config.rope_parameters["rope_theta"], config.sliding_window) == (1e6, None)


def test_a_tied_vlm_with_fewer_rows_takes_a_merge(tmp_path: Path) -> None:
    """InternVL3-2B-hf (151674 rows) and TinySwallow-1.5B-Instruct (151936 rows) over Qwen2.5-1.5B, in small."""
    text = {"family": "qwen2", "tie": True, "rope_theta": 1e6, "vocab_rows": 151936}
    base = pico_llm(tmp_path / "base", **text)
    pico_llm(tmp_path / "ja", like=base, seed=1, **text)
    pico_vlm(
        tmp_path / "vlm",
        family="internvl",
        like=base,
        seed=2,
        tie=True,
        rope_theta=1e6,
        extra_rows=151674 - ROWS,
    )
    recipe = into_vlm(tmp_path)
    merger = Merger.open(recipe)
    # What no token stands for is padding, and stays the host's.
    assert merger.rows["model.embed_tokens.weight"].n_merged == ROWS
    assert merger.rows["model.embed_tokens.weight"].n_rows == 151674
    assert merger.warnings == ()
    check_merge(recipe, tmp_path / "out")
