"""Whose rope, window, eps and tying a merged model takes, and that transformers reads the same from what is written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from evovlm.errors import IncompatibleModels
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.result_layout import result_config
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.families import TEXT_FAMILIES
from evovlm.recipes.language_config import backbone_settings
from tests.merging.recipes import make_recipe, merge_all
from tests.pico import pico_llm, pico_vlm

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SETTINGS = ("rope_parameters", "sliding_window", "layer_types", "rms_norm_eps", "max_position_embeddings")


def change_config(folder: Path, **changes: Any) -> None:
    """Change keys of a folder's config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in {**config, **changes}.items() if changes.get(key, "") is not None}
    (folder / "config.json").write_text(json.dumps(config))


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers computes with, whatever the family of the config."""
    loaded = AutoConfig.for_model(**json.loads(json.dumps(config)))
    loaded = getattr(loaded, "text_config", loaded)
    found = {key: getattr(loaded, key, None) for key in SETTINGS}
    found["rope_parameters"] = {key: value for key, value in found["rope_parameters"].items() if key != "type"}
    return found


def test_the_hosts_own_config_is_left_alone(models: Path) -> None:
    host = Checkpoint.open(models / "vlm")
    assert result_config(host, host) == host.config
    result = Merger.open(make_recipe(models, {"other-rope": (0.5, 1.0)})).result
    assert result.is_hosts
    assert result.config == Checkpoint.open(models / "base").config


@pytest.mark.parametrize("model_type", TEXT_FAMILIES)
def test_the_default_positions_are_those_of_transformers(model_type: str) -> None:
    assert TEXT_FAMILIES[model_type].positions == AutoConfig.for_model(model_type).max_position_embeddings


@pytest.mark.parametrize("host", ["base", "vlm"])
def test_settings_are_the_donors_and_everything_else_the_hosts(models: Path, host: str) -> None:
    opened, donor = Checkpoint.open(models / host), Checkpoint.open(models / "other-rope")
    config = result_config(opened, donor)
    assert text_settings(config) == text_settings(donor.config)
    assert text_settings(config)["sliding_window"] == 64
    text = config["text_config"] if host == "vlm" else config
    assert (text["rope_theta"], text["rope_parameters"]["rope_theta"], text["rope_scaling"]) == (1e6, 1e6, None)
    untouched = {"vision_config", "image_token_index", "model_type", "architectures", "tie_word_embeddings"}
    assert all(config[key] == opened.config[key] for key in untouched & opened.config.keys())


def test_what_the_donor_does_not_say_is_its_familys_default_and_not_the_hosts(models: Path, tmp_path: Path) -> None:
    """EvoVLM-JP-v1-7B: no rope_theta in its text config, hence 10000, though LLaVA's was 1e6."""
    host = pico_llm(tmp_path / "host", rope_theta=1e6, sliding_window=64)
    donor = pico_llm(tmp_path / "donor")
    silent = dict.fromkeys(["rope_parameters", "sliding_window", "rms_norm_eps", "max_position_embeddings"])
    change_config(donor, **silent)
    config = result_config(Checkpoint.open(host), Checkpoint.open(donor))
    settings = text_settings(config)
    assert settings["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert (settings["sliding_window"], settings["rms_norm_eps"]) == (4096, 1e-6)
    assert settings["max_position_embeddings"] == 131072


def test_the_older_form_of_rope_gives_the_same_as_the_newer(models: Path, tmp_path: Path) -> None:
    older, newer = pico_llm(tmp_path / "older"), pico_llm(tmp_path / "newer")
    scaling = {"rope_type": "linear", "factor": 4.0}
    change_config(older, rope_parameters=None, rope_theta=5e5, rope_scaling=scaling)
    change_config(newer, rope_parameters={**scaling, "rope_theta": 5e5})
    host = Checkpoint.open(models / "vlm")
    first, second = (result_config(host, Checkpoint.open(folder)) for folder in (older, newer))
    assert first == second
    assert text_settings(first) == text_settings(Checkpoint.open(newer).config)
    # What transformers 4 reads.
    assert first["text_config"]["rope_theta"] == 5e5
    assert first["text_config"]["rope_scaling"] == {**scaling, "type": "linear"}


def test_another_family_of_the_same_tensors_gives_its_window(tmp_path: Path) -> None:
    llama, mistral = pico_llm(tmp_path / "llama", family="llama"), pico_llm(tmp_path / "mistral", sliding_window=64)
    change_config(llama, rms_norm_eps=None, max_position_embeddings=None)
    config = result_config(Checkpoint.open(mistral), Checkpoint.open(llama))
    assert (config["sliding_window"], config["max_position_embeddings"]) == (None, 2048)
    assert text_settings(config)["rms_norm_eps"] == 1e-6
    with pytest.raises(IncompatibleModels, match=r"sliding window of 64.*\(llama\) does not support"):
        result_config(Checkpoint.open(llama), Checkpoint.open(mistral))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_host_keeps_how_its_image_positions_are_laid_out(tmp_path: Path, family: str) -> None:
    text = "qwen3" if family == "qwen3_vl" else "qwen2"
    host = Checkpoint.open(pico_vlm(tmp_path / "vlm", family=family, rope_theta=1e6))
    donor = Checkpoint.open(pico_llm(tmp_path / "llm", family=text, rope_theta=5e4))
    config = result_config(host, donor)
    rope, own = text_settings(config)["rope_parameters"], text_settings(host.config)["rope_parameters"]
    assert rope == {**own, "rope_theta": 5e4}
    assert rope["mrope_section"] == [1, 1, 2]
    back = text_settings(result_config(donor, host))["rope_parameters"]
    assert back == {"rope_type": "default", "rope_theta": 1e6}


def test_gemma_3_has_a_rope_for_each_kind_of_layer(tmp_path: Path) -> None:
    host = Checkpoint.open(pico_vlm(tmp_path / "vlm", family="gemma3", rope_theta=1e6))
    folder = pico_llm(tmp_path / "llm", family="gemma3_text", rope_theta=5e4, sliding_window=64)
    newer = Checkpoint.open(folder)
    config = result_config(host, newer)
    assert text_settings(config) == text_settings(newer.config)
    change_config(folder, rope_parameters=None, rope_theta=5e4, rope_local_base_freq=10000.0)
    older = Checkpoint.open(folder)
    assert result_config(host, older) == config
    assert backbone_settings(config["text_config"], "gemma3_text") == backbone_settings(older.config, "gemma3_text")


@pytest.mark.parametrize(("host", "vlm"), [("tied", False), ("tied-vlm", True)])
def test_a_tied_host_gets_a_separate_head(models: Path, tmp_path: Path, host: str, vlm: bool) -> None:
    recipe = make_recipe(models, {"math": (0.5, 1.0)}, host=host, config_from="math", method="task_arithmetic")
    merger = Merger.open(recipe)
    assert any("tie_word_embeddings" in w and "takes that of math" in w for w in merger.warnings)
    folder = write_checkpoint(recipe, tmp_path / "out").folder
    model = (AutoModelForImageTextToText if vlm else AutoModelForCausalLM).from_pretrained(folder)
    merged = merge_all(recipe)
    assert torch.equal(model.get_output_embeddings().weight, merged[HEAD])
    assert torch.equal(model.get_input_embeddings().weight, merged[EMBEDDING])
    assert not torch.equal(merged[HEAD], merged[EMBEDDING])
    if vlm:
        own = Checkpoint.open(models / host).read(EMBEDDING)
        assert torch.equal(merged[HEAD][-5:], own[-5:])


@pytest.mark.parametrize(("host", "vlm"), [("base", False), ("vlm", True)])
def test_an_untied_host_loses_its_head(models: Path, tmp_path: Path, host: str, vlm: bool) -> None:
    recipe = make_recipe(
        models, {"tied2": (0.5, 1.0)}, base="base", host=host, config_from="tied2", method="task_arithmetic"
    )
    folder = write_checkpoint(recipe, tmp_path / "out").folder
    assert not any("lm_head" in name for name in Checkpoint.open(folder).places)
    model = (AutoModelForImageTextToText if vlm else AutoModelForCausalLM).from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, merge_all(recipe)[EMBEDDING])
