"""Merged models on disk: ordinary checkpoints, all at once or not at all."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from evovlm.errors import BrokenCheckpoint, OutputExists
from evovlm.merging import writer
from evovlm.merging.checkpoint.safetensors_file import tensor_places
from evovlm.merging.checkpoint.shards import KeptBytes
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.writer import write_checkpoint
from evovlm.models.stored_views import find_parameters
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.model_ref import ModelRef
from tests.merging.recipes import make_recipe, merge_all


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors


def test_a_merged_llm_loads_with_transformers(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "ja": (0.4, 0.9)})
    written = write_checkpoint(recipe, tmp_path / "deep" / "out")
    assert written.folder == tmp_path / "deep" / "out"
    assert (written.n_merged, written.n_copied) == (21, 0)
    model = AutoModelForCausalLM.from_pretrained(written.folder)
    assert model.num_parameters() * 4 == written.size_bytes
    for name, tensor in merge_all(recipe).items():
        assert torch.equal(model.get_parameter(name), tensor)
    assert AutoTokenizer.from_pretrained(written.folder)("答え: 7").input_ids[0] == 1


@pytest.mark.parametrize("shard_bytes", [60_000, 1 << 30])
def test_a_merged_vlm_loads_and_keeps_the_rest_of_its_host(models: Path, tmp_path: Path, shard_bytes: int) -> None:
    recipe = make_recipe(models, {"vlm": (0.7, 0.5), "ja": (0.4, 0.9)}, host="vlm", vocabulary="host")
    folder = write_checkpoint(recipe, tmp_path / "out", shard_bytes=shard_bytes).folder
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder)
    layout, merged = Checkpoint.open(folder).layout, merge_all(recipe)
    names, shapes = {name: layout.disk_name(name) for name in merged}, {name: merged[name].shape for name in merged}
    views = find_parameters(model, names, shapes=shapes)
    for name, tensor in merged.items():
        assert torch.equal(views[name], tensor)
    host, result = stored(models / "vlm"), stored(folder)
    assert host.keys() == result.keys()
    others = [name for name in host if not name.startswith("language_model.")]
    assert others
    assert all(torch.equal(host[name], result[name]) for name in others)
    for name in ("config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (models / "vlm" / name).read_bytes()


def test_shards_have_an_index(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5)})
    one = write_checkpoint(recipe, tmp_path / "one")
    many = write_checkpoint(recipe, tmp_path / "many", shard_bytes=60_000)
    assert (tmp_path / "one" / "model.safetensors").is_file()
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == many.size_bytes == one.size_bytes
    assert len(set(index["weight_map"].values())) == len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    left, right = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("host", "kind"), [("tied", AutoModelForCausalLM), ("tied-vlm", LlavaForConditionalGeneration)]
)
def test_a_tied_host_stays_tied(models: Path, tmp_path: Path, host: str, kind: type) -> None:
    recipe = make_recipe(models, {"tied2": (0.5, 1.0)}, base="tied", host=host, vocabulary="host")
    folder = write_checkpoint(recipe, tmp_path / "out").folder
    assert not any("lm_head" in name for name in stored(folder))
    model = kind.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    wanted = merge_all(recipe)["model.embed_tokens.weight"]
    assert torch.equal(model.get_input_embeddings().weight, wanted)


def test_a_host_in_shards_of_bfloat16_is_read_and_its_dtype_kept(models: Path, tmp_path: Path) -> None:
    assert (models / "math16" / "model.safetensors.index.json").is_file()
    recipe = make_recipe(models, {"math16": (0.5, 1.0)}, base="base16", host="math16")
    folder = write_checkpoint(recipe, tmp_path / "out").folder
    assert {tensor.dtype for tensor in stored(folder).values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_the_same_recipe_makes_the_same_bytes_and_the_written_recipe_too(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "ja": (0.4, 0.9)})
    first = write_checkpoint(recipe, tmp_path / "first")
    again = load_recipe(tmp_path / "first" / "recipe.yaml")
    assert again.recipe_id == recipe.recipe_id == first.recipe_id
    write_checkpoint(again, tmp_path / "elsewhere" / "second")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "elsewhere" / "second" / name).read_bytes()


def test_the_model_card_names_models_method_and_recipe(models: Path, tmp_path: Path) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5), "other-rope": (0.4, 0.9)})
    write_checkpoint(recipe, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in ("`dare_ties`", recipe.recipe_id, "source `math`", "rope_theta is 10000.0", "weight: 0.7"):
        assert part in card


def test_a_text_that_a_link_leads_out_of_the_host_is_left_out_with_a_warning(models: Path, tmp_path: Path) -> None:
    host = shutil.copytree(models / "base", tmp_path / "host")
    (tmp_path / "secret").write_text("secret")
    (host / "notes.txt").symlink_to("../secret")
    recipe = replace(make_recipe(models, {"math": (0.7, 0.5)}), host=ModelRef(text=str(host)))
    written = write_checkpoint(recipe, tmp_path / "out")
    assert "notes.txt is left out: it is a link that leads out of the folder." in written.warnings
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_an_existing_folder_is_never_touched(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists, match="exists already"):
        write_checkpoint(make_recipe(models, {"math": (0.7, 0.5)}), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_run_leaves_no_result_and_the_next_cleans_up(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(models, {"math": (0.7, 0.5)})
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
    write_checkpoint(recipe, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    def broken(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "copy_files", broken)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(recipe, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    "name", ["multi_modal_projector.linear_1.bias", "language_model.model.embed_tokens.weight"], ids=["tensor", "rows"]
)
def test_what_is_kept_of_the_host_and_changed_on_the_way_is_found(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = make_recipe(models, {"vlm": (0.7, 0.5)}, host="vlm", vocabulary="host")
    real = writer.check_kept

    def flipping(folder: Path, kept: list[KeptBytes]) -> None:
        place = tensor_places(folder / "model.safetensors")[name]
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[place.stop - 1] ^= 1
        (folder / "model.safetensors").write_bytes(content)
        real(folder, kept)

    monkeypatch.setattr(writer, "check_kept", flipping)
    with pytest.raises(BrokenCheckpoint, match=re.escape(f"{name} differs from the host's")):
        write_checkpoint(recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
