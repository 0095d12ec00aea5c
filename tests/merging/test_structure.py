"""Models that are read by their tensors and config.json alone, and those whose recipe says where they are."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evovlm.errors import ConfigError, UnknownArchitecture
from evovlm.merging.before.preflight import preflight_recipe
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.description import describe_layout
from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.documents import recipe_from_text
from evovlm.recipes.families import BackbonePrefixes
from evovlm.recipes.kinds import HybridMerge
from evovlm.recipes.layer_path import LayerPath, LayerPathMerge, LayerStep
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.writing import recipe_to_yaml
from evovlm.recipes.yaml_text import read_yaml
from tests.merging.recipes import make_recipe, merge_all
from tests.pico import pico_llm, pico_vlm


def renamed(source: Path, target: Path, names: Mapping[str, str], config: Mapping[str, object]) -> Path:
    """Save a model as one of custom code: tensors under other names, and a config.json of another model type."""
    target.mkdir()
    weights = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        new = name
        for old, other in names.items():
            if name.startswith(old):
                new = other + name.removeprefix(old)
                break
        weights[new] = tensor
    save_file(weights, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config))
    for file in source.glob("tokenizer*"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def text_settings(folder: Path) -> dict[str, object]:
    config = json.loads((folder / "config.json").read_text())
    return dict(config.get("text_config") or config)


@pytest.fixture
def trio(tmp_path: Path) -> Path:
    """`base` and `ja`, text models, and `vlm`, whose language model is a fine-tune of base."""
    base = pico_llm(tmp_path / "base")
    pico_llm(tmp_path / "ja", like=base, seed=1)
    pico_vlm(tmp_path / "vlm", like=base, seed=2)
    return tmp_path


@pytest.mark.parametrize(
    ("part", "model_type"),
    [("llm_config", "internvl_chat"), ("text_config", "sarashina2_vision"), ("llm_cfg", "nvila")],
)
def test_a_vlm_of_custom_code_takes_a_merge_without_its_code(trio: Path, part: str, model_type: str) -> None:
    config = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Custom"}, part: text_settings(trio / "vlm")}
    renamed(trio / "vlm", trio / "custom", {}, config | {"vision_config": {"hidden_size": 16}})
    recipe = make_recipe(trio, {"custom": (0.7, 0.5), "ja": (0.5, 0.5)}, host="custom", vocabulary="host")
    merged = merge_all(recipe)
    known = merge_all(make_recipe(trio, {"vlm": (0.7, 0.5), "ja": (0.5, 0.5)}, host="vlm", vocabulary="host"))
    assert merged.keys() == known.keys()
    written = write_checkpoint(recipe, trio / "out").folder
    host, result = Checkpoint.open(trio / "custom"), Checkpoint.open(written)
    assert all(result.places[name].read_bytes() == host.places[name].read_bytes() for name in host.other_names())
    assert all(torch.equal(result.read(name), tensor) for name, tensor in merged.items())
    assert json.loads((written / "config.json").read_text()) == json.loads(
        (trio / "custom" / "config.json").read_text()
    )


@pytest.mark.parametrize(
    "says",
    [
        {"model_type": "llava_llama", "mm_vision_tower": "openai/clip"},
        {"model_type": "phi3_v"},
        {"model_type": "llama"},
    ],
    ids=["said in the config", "said by the tensors", "a text model's type"],
)
def test_a_vision_tower_inside_the_body_stays_the_hosts(trio: Path, says: dict[str, object]) -> None:
    """llava_llama and phi3_v keep vision tower and projector in the module of their language model."""
    names = {
        "language_model.model.": "model.",
        "language_model.lm_head": "lm_head",
        "vision_tower.": "model.vision_tower.vision_tower.",
        "multi_modal_projector.linear_1": "model.mm_projector.0",
        "multi_modal_projector.linear_2": "model.mm_projector.2",
    }
    renamed(trio / "vlm", trio / "custom", names, text_settings(trio / "vlm") | says)
    vlm, base = Checkpoint.open(trio / "custom"), Checkpoint.open(trio / "base")
    assert vlm.backbone_names() == base.backbone_names()
    assert vlm.layout.blocks_prefix == "model.layers."
    assert (vlm.layout.is_vlm, base.layout.is_vlm) == (True, False)
    # Two of them merge too, without the towers.
    recipe = make_recipe(trio, {"custom": (0.5, 1.0)}, host="custom", base="custom")
    assert set(Merger.open(recipe).tensor_names) == set(base.backbone_names())


def two_decoders(trio: Path) -> Path:
    """A speech model: a thinker and a talker of the same shapes, and a config that describes both."""
    weights = load_file(trio / "base" / "model.safetensors")
    both = {f"{part}.{name}": tensor.clone() for part in ("thinker", "talker") for name, tensor in weights.items()}
    folder = renamed(
        trio / "base", trio / "omni", {}, {"model_type": "omni", "text_config": text_settings(trio / "base")}
    )
    save_file(both, folder / "model.safetensors")
    return folder


def test_several_possible_language_models_are_refused_with_the_lines_to_choose_from(trio: Path) -> None:
    with pytest.raises(UnknownArchitecture) as raised:
        Checkpoint.open(two_decoders(trio))
    message = str(raised.value)
    for part in ("thinker", "talker"):
        assert f'`backbone: {{body: "{part}.model.", head: "{part}.lm_head.", blocks: "layers."}}`' in message


def test_the_recipe_can_say_which_one_is_merged(trio: Path) -> None:
    two_decoders(trio)
    stated = BackbonePrefixes(body="talker.model", head="talker.lm_head")
    recipe = replace(make_recipe(trio, {"ja": (0.5, 1.0)}, host="omni"), backbone=stated)
    merger = Merger.open(recipe)
    host = merger.host
    assert host.layout.disk_name("model.norm.weight") == "talker.model.norm.weight"
    assert host.layout.disk_name("lm_head.weight") == "talker.lm_head.weight"
    assert all(name.startswith("thinker.") for name in host.other_names())
    assert describe_layout(host, is_host=True) == (
        "read as `backbone` says: 2 blocks under talker.model.layers., embedding talker.model.embed_tokens, "
        "head talker.lm_head; 21 tensors stay the host's (thinker: 21)"
    )
    assert preflight_recipe(recipe).problems == ()
    written = Checkpoint.open(write_checkpoint(recipe, trio / "out").folder, declared=stated)
    assert all(torch.equal(written.read(name), tensor) for name, tensor in merge_all(recipe).items())


def test_a_path_leads_through_the_language_model_that_its_recipe_states(trio: Path) -> None:
    two_decoders(trio)
    stated = BackbonePrefixes(body="talker.model", head="talker.lm_head")
    steps = tuple(LayerStep(source=name, layer=layer) for name, layer in (("omni", 1), ("ja", 0), ("omni", 1)))
    refs = {name: ModelRef(text=str(trio / name)) for name in ("omni", "ja")}
    recipe = LayerPathMerge(
        host=refs["omni"], sources=refs, path=LayerPath(steps=steps), scale_target="stream", backbone=stated
    )
    file = trio / "path.yaml"
    file.write_text(recipe_to_yaml(recipe, folder=trio))
    assert recipe_from_text(read_yaml(file), file).recipe_id == recipe.recipe_id
    assert recipe.recipe_id != replace(recipe, backbone=None).recipe_id
    assert preflight_recipe(recipe).problems == ()
    written = Checkpoint.open(write_checkpoint(recipe, trio / "out").folder, declared=stated)
    assert written.layout.n_blocks == len(steps)
    host, ja = Checkpoint.open(trio / "omni", declared=stated), Checkpoint.open(trio / "ja")
    for number, step in enumerate(steps):
        source = host if step.source == "omni" else ja
        name = "self_attn.q_proj.weight"
        found = written.read(f"model.layers.{number}.{name}")
        assert torch.equal(found, source.read(f"model.layers.{step.layer}.{name}"))
    others = host.other_names()
    assert [name for name in written.places if name.startswith("thinker.")] == list(others)
    assert all(written.places[name].read_bytes() == host.places[name].read_bytes() for name in others)
    # A hybrid's path is read as its first stage says.
    first = replace(make_recipe(trio, {"ja": (0.5, 1.0)}, host="omni"), backbone=stated)
    path = LayerPath(steps=(LayerStep(source="ps", layer=1), LayerStep(source="ps", layer=0)))
    hybrid = HybridMerge(ps=first, sources={}, path=path, scale_target="stream")
    assert preflight_recipe(hybrid).problems == ()
    assert Checkpoint.open(write_checkpoint(hybrid, trio / "both").folder, declared=stated).layout.n_blocks == 2


def test_a_recipe_keeps_what_it_says_of_the_language_model(trio: Path) -> None:
    two_decoders(trio)
    plain = make_recipe(trio, {"ja": (0.5, 1.0)}, host="omni")
    recipe = replace(plain, backbone=BackbonePrefixes(body="talker.model", head="talker.lm_head"))
    assert recipe.recipe_id != plain.recipe_id
    file = trio / "recipe.yaml"
    file.write_text(recipe_to_yaml(recipe, folder=trio))
    again = recipe_from_text(read_yaml(file), file)
    assert again.recipe_id == recipe.recipe_id
    file.write_text(file.read_text().replace("blocks:", "block:"))
    with pytest.raises(ConfigError, match=r"backbone\.block"):
        recipe_from_text(read_yaml(file), file)


def test_a_number_of_thousands_of_digits_is_not_a_block(trio: Path) -> None:
    weights = load_file(trio / "base" / "model.safetensors")
    odd = f"model.layers.{'9' * 5000}.mlp.up_proj.weight"
    save_file(weights | {odd: torch.ones(2, 2)}, trio / "base" / "model.safetensors")
    assert Checkpoint.open(trio / "base").layout.n_blocks == 2


def test_prefixes_that_no_model_has_are_refused(trio: Path) -> None:
    recipe = replace(make_recipe(trio, {"ja": (0.5, 1.0)}), backbone=BackbonePrefixes(body="language_model."))
    (problem,) = preflight_recipe(recipe).problems
    assert str(problem).startswith("backbone: no model has tensors that begin with 'language_model.layers.'.")
    with pytest.raises(ConfigError, match="backbone: no model"):
        Merger.open(recipe)


def test_a_checkpoint_says_how_it_was_read(trio: Path) -> None:
    assert describe_layout(Checkpoint.open(trio / "vlm"), is_host=False).startswith(
        "family llava: 2 blocks under language_model.model.layers., embedding language_model.model.embed_tokens, head "
        "language_model.lm_head; "
    )
    config = text_settings(trio / "base") | {"model_type": "plamo9"}
    custom = Checkpoint.open(renamed(trio / "base", trio / "custom", {"model.layers.": "model.layers.layers."}, config))
    assert describe_layout(custom, is_host=True) == (
        "read by structure: 2 blocks under model.layers.layers., embedding model.embed_tokens, head lm_head"
    )
    assert custom.backbone_names() == Checkpoint.open(trio / "base").backbone_names()
